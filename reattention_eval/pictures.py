"""What matplotlib's figures of all rooms share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattention_eval.whole_file import whole_file


def save_picture(figure: Any, path: Path, dpi: int) -> None:
    """A figure in the format that the file's name says."""
    with whole_file(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix[1:])


def logarithmic(axis: Any) -> None:
    """Values on a logarithmic axis, with plain numbers: 30, not 3 x 10^1."""
    axis.set_yscale("log")
    for which in ("major", "minor"):
        getattr(axis.yaxis, f"set_{which}_formatter")("{x:g}")

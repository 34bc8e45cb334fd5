"""What matplotlib's figures of all rooms share."""

from __future__ import annotations

from math import log10
from pathlib import Path
from typing import Any

from reattention_eval.whole_file import whole_file


def save_picture(figure: Any, path: Path, dpi: int) -> None:
    """A figure in the format that the file's name says."""
    with whole_file(path) as file:
        figure.savefig(file, dpi=dpi, format=path.suffix[1:])


def logarithmic(axis: Any) -> None:
    """Values on a logarithmic axis, with plain numbers: 30, not 3 x 10^1. Asked when the lines are
    drawn: over more than a decade there is room for 1, 2 and 5 of each, over many for 1 alone."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    decades = log10(high / low)
    digits = tuple(range(1, 10)) if decades < 1 else (1, 2, 5) if decades < 3.5 else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=digits, numticks=99))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())

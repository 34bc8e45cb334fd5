"""All methods at one length: a row each, family by family, a panel a figure, with the intervals."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from reattention_eval.pictures import save_picture
from reattention_eval.report.curve import PERCENT, Point, in_percent, titles

LEAST_METHODS = 4  # fewer are told apart in a plot against length
NEARLY = 0.75


def draw_at_length(
    points: Sequence[Point],
    family: Callable[[Point], str],
    order: Sequence[str],
    path: Path,
) -> Path | None:
    """Of the lengths with nearly as many points as any the longest; None where few methods have one
    there.

    Args:
        family: of a point's method.
        order: of the families.

    Raises:
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    counts = Counter(p.length for p in points)
    most = max(counts.values(), default=0)
    length = max((n for n in counts if counts[n] >= NEARLY * most), default=0)
    here = [p for p in points if p.length == length]
    title, _ = titles(here)
    rows = {title(p): family(p) for p in here}
    if len(rows) < LEAST_METHODS:
        return None
    names = sorted(rows, key=lambda name: (order.index(rows[name]), name))
    _draw(here, names, [rows[name] for name in names], length, title, path)
    return path


def _draw(
    here: Sequence[Point],
    names: Sequence[str],
    families: Sequence[str],
    length: int,
    title: Callable[[Point], str],
    path: Path,
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(p.panel for p in here))
    words = 0.06 * max(map(len, names))  # inches
    size = words + 0.7 + 2.3 * len(panels), 1.6 + 0.24 * len(names)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    kinds = list(dict.fromkeys(families))
    colour = {kind: f"C{i}" for i, kind in enumerate(kinds)}
    for axis, panel in zip(axes, panels, strict=True):
        for p in (p for p in here if p.panel == panel):
            row = names.index(title(p))
            own = colour[families[row]]
            axis.plot([p.value], [row], "o", color=own, ms=4)
            if not math.isnan(p.low):
                axis.plot([p.low, p.high], [row, row], color=own, lw=1.2)
        _finish(axis, panel, families)
    axes[0].set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    marks = [axes[0].plot([], [], "o-", ms=4, color=colour[kind])[0] for kind in kinds]
    figure.legend(marks, kinds, loc="outside lower center", ncols=len(kinds), fontsize=7)
    models = ", ".join(dict.fromkeys(p.model for p in here))
    figure.suptitle(f"{models}: all methods at {length:,} tokens", fontsize=10, parse_math=False)
    save_picture(figure, path, dpi=150)


def _finish(axis: Any, panel: str, families: Sequence[str]) -> None:
    axis.set_title(fill(panel, 28), fontsize=7.5, parse_math=False)
    axis.tick_params(labelsize=7)
    axis.grid(axis="x", lw=0.4, color="0.85")
    axis.set_axisbelow(True)
    if in_percent(panel):
        axis.set_xlim(*PERCENT)
    for row in range(1, len(families)):  # a line between families
        if families[row] != families[row - 1]:
            axis.axhline(row - 0.5, color="0.7", lw=0.8)

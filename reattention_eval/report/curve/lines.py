"""One panel: the lines of its points, on axes that fit them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from reattention_eval.pictures import logarithmic
from reattention_eval.report.curve.points import Point
from reattention_eval.report.heatmap import thousands

PERCENT = -3, 103  # ends of an axis of shares
_STYLES, _MARKERS = ("-", "--", ":"), "o^s"  # colours come again after ten lines
_BANDS = 8  # of so many lines the intervals can still be told apart


def titles(points: Sequence[Point]) -> tuple[Callable[[Point], str], dict[str, str]]:
    """What a point's line is called, and the colour of each line."""
    several = len({p.model for p in points}) > 1

    def title(p: Point) -> str:
        return f"{p.model}: {p.method}" if several else p.method

    return title, {name: f"C{i}" for i, name in enumerate(dict.fromkeys(map(title, points)))}


def in_percent(panel: str) -> bool:
    """Whether its figures are shares or scores, of 0 to 100."""
    return not panel.startswith("Perplexity") and "NLL" not in panel


def draw_lines(
    axis: Any, points: Sequence[Point], title: Callable[[Point], str], colours: dict[str, str]
) -> None:
    """Each in its colour, with its intervals where there are few."""
    names = list(dict.fromkeys(map(title, points)))
    for name in names:
        line = [p for p in points if title(p) == name]
        _line(axis, line, name, colours[name], len(names) <= _BANDS)


def draw_points(
    axis: Any, points: Sequence[Point], title: Callable[[Point], str], colours: dict[str, str]
) -> None:
    """Of one length, side by side with their intervals."""
    for place, point in enumerate(points):
        at = point.length * 2 ** ((place + 0.5) / len(points) - 0.5)
        name = title(point)
        colour, (_, marker) = colours[name], _look(colours[name])
        _interval(axis, point, at, colour)
        axis.plot([at], [point.value], marker=marker, ms=4, label=name, color=colour)
    length = points[0].length
    axis.set_xlim(length * 2**-0.5, length * 2**0.5)


def _interval(axis: Any, point: Point, at: float, colour: str) -> None:
    if not math.isnan(point.low):
        axis.plot([at, at], [point.low, point.high], color=colour, lw=1.2)


def _look(colour: str) -> tuple[str, str]:
    """Style and marker of a line."""
    again = int(colour[1:]) // 10 % len(_STYLES) if colour[0] == "C" else 0
    return _STYLES[again], _MARKERS[again]


def _line(axis: Any, line: Sequence[Point], name: str, colour: str, band: bool) -> None:
    lengths = [p.length for p in line]
    style, marker = _look(colour)
    values = [p.value for p in line]
    axis.plot(lengths, values, style, marker=marker, ms=4, label=name, color=colour)
    if len(line) == 1:
        _interval(axis, line[0], line[0].length, colour)
    elif band and any(not math.isnan(p.low) for p in line):
        axis.fill_between(
            lengths, [p.low for p in line], [p.high for p in line], color=colour, alpha=0.12, lw=0
        )


def finish(axis: Any, own: Iterable[Point], panel: str, window: int | None) -> None:
    """Scales, the trained window and the title of a panel whose lines are drawn."""
    own = list(own)
    axis.set_xscale("log", base=2)
    lengths = sorted({p.length for p in own})
    axis.set_xticks(lengths, [thousands(n) for n in lengths], fontsize=7)
    axis.minorticks_off()
    if window and len(lengths) > 1:
        axis.axvline(window, color="black", lw=1, ls=(0, (3, 2)))
    if in_percent(panel):
        axis.set_ylim(*PERCENT)
    elif panel.startswith("Perplexity"):
        logarithmic(axis)
    counts = {p.n for p in own}
    n = f"n = {min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "")
    axis.set_title(f"{panel} ({n} a point)", fontsize=9, parse_math=False)

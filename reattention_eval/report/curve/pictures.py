"""Pictures of several panels: side by side, or a column of them for each kind of methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from reattention_eval.pictures import save_picture
from reattention_eval.report.curve.lines import draw_lines, draw_points, finish, titles
from reattention_eval.report.curve.points import Point

_LETTER = 0.062  # inches of a legend's letter


def draw_panels(points: Sequence[Point], window: int | None, path: Path) -> None:
    """All panels, two in a row, and below them what the lines are."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(p.panel for p in points))
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    title, colours = titles(points)
    wide = max(1, int(6.2 * across / (0.6 + _LETTER * max(map(len, colours)))))
    rows = -(-len(colours) // wide)
    figure = Figure(figsize=(6.2 * across, 3.1 * down + 0.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(down, across)
    lines: dict[str, Any] = {}
    for i, panel in enumerate(panels):
        axis = figure.add_subplot(grid[i // across, i % across])
        own = [p for p in points if p.panel == panel]
        draw = draw_lines if len({p.length for p in own}) > 1 else draw_points
        draw(axis, own, title, colours)
        finish(axis, own, panel, window)
        lines |= _lines(axis)
    figure.legend(lines.values(), lines, fontsize=7, loc="outside lower center", ncols=wide)
    _headline(figure, points, window)
    save_picture(figure, path, dpi=150)


def draw_grid(
    points: Sequence[Point],
    column: Callable[[Point], str],
    order: Sequence[str],
    window: int | None,
    path: Path,
) -> None:
    """A row a panel, a column of each kind of lines, side by side on one scale.

    Args:
        column: the heading of a point's column.
        order: of the columns; the lines of the first one that there is are grey in the others.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(p.panel for p in points))
    columns = [name for name in order if name in set(map(column, points))]
    title, _ = titles(points)
    grey = dict.fromkeys(map(title, points), "0.6")
    colours: dict[str, dict[str, str]] = {name: {} for name in columns}  # in each column anew
    for p in points:
        own = colours[column(p)]
        own.setdefault(title(p), f"C{len(own)}")
    wide = max(4.4, 0.6 + _LETTER * max(map(len, grey)))
    below = 0.8 + 0.18 * max(map(len, colours.values()))
    size = wide * len(columns), 2.9 * len(panels) + below
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), len(columns), squeeze=False, sharey="row")
    for place, panel in enumerate(panels):
        of_panel = [p for p in points if p.panel == panel]
        for axis, name in zip(axes[place], columns, strict=True):
            mine = [p for p in of_panel if column(p) == name]
            beside = [p for p in of_panel if column(p) == columns[0] != name]
            if not mine:
                axis.set_axis_off()
                continue
            both = [*beside, *mine]
            if len({p.length for p in both}) > 1:
                draw_lines(axis, beside, title, grey)
                draw_lines(axis, mine, title, colours[name])
            else:
                draw_points(axis, both, title, {**grey, **colours[name]})
            finish(axis, both, panel, window)
            words = fill(axis.get_title(), 52)
            axis.set_title(f"{name}\n{words}", fontsize=8, parse_math=False)
    for column_axes in axes.T:  # one legend a column, below it
        drawn = [axis for axis in column_axes if axis.has_data()]
        lines: dict[str, Any] = {}
        for axis in drawn:
            lines = {**_lines(axis), **lines}
        drawn[-1].legend(
            lines.values(), lines, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12)
        )
    _headline(figure, points, window)
    save_picture(figure, path, dpi=130)


def _lines(axis: Any) -> dict[str, Any]:
    """A panel's lines by what they are called."""
    handles, labels = axis.get_legend_handles_labels()
    return dict(zip(labels, handles, strict=True))


def _headline(figure: Any, points: Sequence[Point], window: int | None) -> None:
    names = ", ".join(dict.fromkeys(p.model for p in points))
    words = f"; dashed line: trained window of {window:,} tokens" if window else ""
    letters = int(11 * figure.get_figwidth())  # of this size, in so many inches
    text = fill(f"{names}: score against length{words}", letters)
    figure.suptitle(text, fontsize=11, parse_math=False)

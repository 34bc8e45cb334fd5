"""Score against length for one model: a line a method, inside its window and beyond it."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.pictures import logarithmic, save_picture
from reattention_eval.report.apart import apart
from reattention_eval.report.fields import is_count
from reattention_eval.report.heatmap import trained_window
from reattention_eval.report.intervals import Interval
from reattention_eval.report.joined import read_runs
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.measures import cell_length, metrics, sample_count
from reattention_eval.report.needles import form, form_title
from reattention_eval.report.run import Cell, latest_work_dir
from reattention_eval.report.sample_scores import MOST_NLL, figure_interval
from reattention_eval.report.selected import read_selected, write_selected

COLUMNS = ("panel", "model", "method", "length", "value", "low", "high", "n")
_STYLES, _MARKERS = ("-", "--", ":"), "o^s"  # colours come again after ten lines
PERCENT = -3, 103  # ends of an axis of shares
_BANDS = 8  # of so many lines the intervals can still be told apart
# RULER's tasks by what they ask: the first words of their names
_RULER = {
    "niah_single": "a needle",
    "niah_multikey": "a needle among needles",
    "niah_multi": "several needles at once",
    "vt": "tracing",
    "cwe": "aggregation",
    "fwe": "aggregation",
    "qa": "questions",
}


@dataclass(frozen=True)
class Point:
    """A figure at a length; low and high are its 95 % interval, where there is one."""

    panel: str
    model: str
    method: str
    length: int
    value: float
    n: int
    low: float = math.nan
    high: float = math.nan
    source: str = ""  # the model's abbreviation


def draw_curve(work_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """Write curve.csv and curve.png out of the runs' files, and selected.md with its pictures where
    there are failing samples that were looked at (`harness.selected`); what was written.

    Panels: needles found and answer NLL by form, RULER's tasks that go on past the window,
    perplexity by position.

    Raises:
        DataError: no run, a damaged file, or none with figures at a length.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    cells = [cell for cell in read_runs(work_dirs) if cell.result]
    points = curve_points(cells)
    if not points:
        raise DataError(
            f"{', '.join(map(str, work_dirs))}: no figures of needles, RULER or perplexity at any "
            "length; run configs/eval_needle_many_depths.py or configs/eval_real_tables.py."
        )
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "curve.csv"
    table.write_text(points_csv(points), encoding="utf-8")
    picture = folder / "curve.png"
    _draw(points, trained_window(cells), picture)
    samples = [s for work_dir in work_dirs for s in read_selected(latest_work_dir(work_dir))]
    return [table, picture, *write_selected(samples, folder)]


def curve_points(cells: Sequence[Cell]) -> list[Point]:
    """Every panel's points, method by method, by length; figures and intervals are the tables'.

    What was asked otherwise at one length is another line, whose name says what differs.
    """
    found = [*_needles(cells), *_ruler(cells), *_perplexity(cells)]
    order = {name: i for i, name in enumerate(dict.fromkeys(p.panel for p in found))}
    return sorted(found, key=lambda p: (order[p.panel], p.model, p.method, p.length))


def points_csv(points: Sequence[Point]) -> str:
    """One line a point."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for p in points:
        ends = ["" if math.isnan(x) else f"{x:.6g}" for x in (p.low, p.high)]
        writer.writerow([p.panel, p.model, p.method, p.length, f"{p.value:.6g}", *ends, p.n])
    return out.getvalue()


def _needles(cells: Sequence[Cell]) -> Iterator[Point]:
    labels = method_labels(cells)
    own = [cell for cell in cells if form(cell)]
    for name in dict.fromkeys(map(form, own)):
        of_form = [cell for cell in own if form(cell) == name]
        words = form_title(name).capitalize()
        # parallel needles have their share under the name of the official score alone
        share = "accuracy" if any("accuracy" in metrics(cell) for cell in of_form) else "score"
        for metric, panel in ((share, "found, %"), ("answer_nll", "answer NLL per token")):
            yield from _figures(f"{words}: {panel}", of_form, metric, labels)


def _ruler(cells: Sequence[Cell]) -> Iterator[Point]:
    """A panel a task, so that all points of a line are about the same thing: of the tasks, those
    that reach the most lengths past the window (without one, any), or two of them at least."""
    labels = method_labels(cells)
    window, by_task = trained_window(cells) or 0, defaultdict[str, list[Cell]](list)
    for cell in cells:
        if _facts(cell).get("benchmark") == "ruler" and "score" in metrics(cell):
            by_task[str(_facts(cell).get("task"))].append(cell)
    reach = {
        task: len({n for n in map(cell_length, own) if n and n > window})
        for task, own in by_task.items()
    }
    enough = min(2, max(reach.values(), default=0))
    kinds = {task: next((k for k in _RULER if task.startswith(k)), task) for task in by_task}
    order = [*_RULER, *kinds.values()]
    for task in sorted(by_task, key=lambda task: (order.index(kinds[task]), task)):
        if reach[task] >= enough:
            panel = f"RULER, {task} ({_RULER.get(kinds[task], 'task')}): score"
            yield from _figures(panel, by_task[task], "score", labels)


def _figures(
    panel: str, cells: Sequence[Cell], metric: str, labels: Mapping[str, str]
) -> Iterator[Point]:
    own = [cell for cell in cells if cell_length(cell) and metric in metrics(cell)]
    for method, line in _lines_of(own, labels):
        for cell in line:
            length, ends = cell_length(cell) or 0, _ends(figure_interval(cell, metric))
            about = panel, model_name(cell), method, length, metrics(cell)[metric]
            yield Point(*about, sample_count(cell), *ends, source=cell.model)


def _perplexity(cells: Sequence[Cell]) -> Iterator[Point]:
    """Means over the places of each doubling of the length; a place read twice counts once."""
    labels = method_labels(cells)
    own = [cell for cell in cells if _facts(cell).get("benchmark") == "perplexity"]
    for method, line in _lines_of(own, labels):
        places: dict[int, float] = {}
        for detail in (detail for cell in line for detail in cell.details):
            position, nll = detail.get("position"), detail.get("answer_nll")
            if is_count(position) and position and nll is not None:
                places[position] = float(nll)
        doublings: dict[int, list[float]] = defaultdict(list)
        for position, nll in places.items():
            doublings[1 << (position - 1).bit_length()].append(nll)
        for length, found in doublings.items():
            if (mean := sum(found) / len(found)) <= MOST_NLL:  # NaN is not
                about = "Perplexity by position in a book", model_name(line[0]), method, length
                yield Point(*about, math.exp(mean), len(found), source=line[0].model)


def _lines_of(cells: Sequence[Cell], labels: Mapping[str, str]) -> Iterator[tuple[str, list[Cell]]]:
    """The cells of one panel, line by line, with what tables call the method."""
    for model in dict.fromkeys(cell.model for cell in cells):
        for words, alike in apart([cell for cell in cells if cell.model == model], cell_length):
            yield f"{labels[model]} ({words})" if words else labels[model], alike


def _ends(interval: Interval | None) -> tuple[float, float]:
    return (math.nan, math.nan) if interval is None else (interval.low, interval.high)


def _facts(cell: Cell) -> dict[str, Any]:
    facts: dict[str, Any] = cell.manifest.get("dataset", {})
    return facts


def _draw(points: Sequence[Point], window: int | None, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = list(dict.fromkeys(p.panel for p in points))
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(6.2 * across, 3.1 * down), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(down, across)
    title, colours = titles(points)
    for i, panel in enumerate(panels):
        axis = figure.add_subplot(grid[i // across, i % across])
        own = [p for p in points if p.panel == panel]
        _lines(axis, own, title, colours)
        _finish(axis, own, panel, window)
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
    figure = Figure(figsize=(4.4 * len(columns), 2.9 * len(panels) + 2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(panels), len(columns), squeeze=False, sharey="row")
    title, _ = titles(points)
    grey = dict.fromkeys(map(title, points), "0.6")
    colours: dict[str, dict[str, str]] = {name: {} for name in columns}  # in each column anew
    for p in points:
        own = colours[column(p)]
        own.setdefault(title(p), f"C{len(own)}")
    for place, panel in enumerate(panels):
        of_panel = [p for p in points if p.panel == panel]
        for axis, name in zip(axes[place], columns, strict=True):
            mine = [p for p in of_panel if column(p) == name]
            beside = [p for p in of_panel if column(p) == columns[0] != name]
            if not mine:
                axis.set_axis_off()
                continue
            _lines(axis, beside, title, grey)
            _lines(axis, mine, title, colours[name])
            _finish(axis, [*beside, *mine], panel, window)
            words = fill(axis.get_title(), 52)
            axis.set_title(f"{name}\n{words}", fontsize=8, parse_math=False)
    for column_axes in axes.T:  # one legend a column, below it
        drawn = [axis for axis in column_axes if axis.get_legend()]
        lines: dict[str, Any] = {}
        for axis in drawn:
            handles, labels = axis.get_legend_handles_labels()
            lines = {**dict(zip(labels, handles, strict=True)), **lines}
            axis.get_legend().remove()
        drawn[-1].legend(
            lines.values(), lines, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12)
        )
    _headline(figure, points, window)
    save_picture(figure, path, dpi=130)


def _headline(figure: Any, points: Sequence[Point], window: int | None) -> None:
    names = ", ".join(dict.fromkeys(p.model for p in points))
    words = f"; dashed line: trained window of {window:,} tokens" if window else ""
    letters = int(11 * figure.get_figwidth())  # of this size, in so many inches
    text = fill(f"{names}: score against length{words}", letters)
    figure.suptitle(text, fontsize=11, parse_math=False)


def titles(points: Sequence[Point]) -> tuple[Callable[[Point], str], dict[str, str]]:
    """What a point's line is called, and the colour of each line."""
    several = len({p.model for p in points}) > 1

    def title(p: Point) -> str:
        return f"{p.model}: {p.method}" if several else p.method

    return title, {name: f"C{i}" for i, name in enumerate(dict.fromkeys(map(title, points)))}


def in_percent(panel: str) -> bool:
    """Whether its figures are shares or scores, of 0 to 100."""
    return not panel.startswith("Perplexity") and "NLL" not in panel


def _lines(
    axis: Any, points: Sequence[Point], title: Callable[[Point], str], colours: dict[str, str]
) -> None:
    names = list(dict.fromkeys(map(title, points)))
    for name in names:
        line = [p for p in points if title(p) == name]
        _line(axis, line, name, colours[name], len(names) <= _BANDS)


def _line(axis: Any, line: Sequence[Point], name: str, colour: str, band: bool) -> None:
    lengths = [p.length for p in line]
    again = int(colour[1:]) // 10 % len(_STYLES) if colour[0] == "C" else 0
    style, marker = _STYLES[again], _MARKERS[again]
    values = [p.value for p in line]
    axis.plot(lengths, values, style, marker=marker, ms=4, label=name, color=colour)
    if band and any(not math.isnan(p.low) for p in line):
        axis.fill_between(
            lengths, [p.low for p in line], [p.high for p in line], color=colour, alpha=0.12, lw=0
        )


def _finish(axis: Any, own: Iterable[Point], panel: str, window: int | None) -> None:
    own = list(own)
    axis.set_xscale("log", base=2)
    lengths = sorted({p.length for p in own})
    axis.set_xticks(lengths, [_short(n) for n in lengths], fontsize=7)
    axis.minorticks_off()
    if window:
        axis.axvline(window, color="black", lw=1, ls=(0, (3, 2)))
    if in_percent(panel):
        axis.set_ylim(*PERCENT)
    elif panel.startswith("Perplexity"):
        logarithmic(axis)
    counts = {p.n for p in own}
    n = f"n = {min(counts)}" + (f" to {max(counts)}" if len(counts) > 1 else "")
    axis.set_title(f"{panel} ({n} a point)", fontsize=9, parse_math=False)
    axis.legend(fontsize=7)


def _short(tokens: int) -> str:
    for unit, name in ((1 << 20, "M"), (1 << 10, "K")):
        if tokens % unit == 0:
            return f"{tokens // unit}{name}"
    return f"{tokens:,}"

"""Score against length for one model: a line a method, inside its window and beyond it."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.pictures import logarithmic, save_picture
from reattention_eval.report.heatmap import trained_window
from reattention_eval.report.intervals import Interval, wilson
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.measures import cell_length
from reattention_eval.report.needles import form, form_title
from reattention_eval.report.run import Cell, latest_work_dir, read_run
from reattention_eval.report.sample_scores import figure_interval
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


def draw_curve(work_dirs: Sequence[Path], folder: Path) -> list[Path]:
    """Write curve.csv and curve.png out of the runs' files, and selected.md with its pictures where
    there are failing samples that were looked at (`harness.selected`); what was written.

    Panels: needles found and answer NLL by form, RULER's tasks that go on past the window,
    perplexity by position.

    Raises:
        DataError: no run, a damaged file, or none with figures at a length.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    runs = [latest_work_dir(work_dir) for work_dir in work_dirs]
    cells = [cell for run in runs for cell in read_run(run) if cell.result]
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
    samples = [sample for run in runs for sample in read_selected(run)]
    return [table, picture, *write_selected(samples, folder)]


def curve_points(cells: Sequence[Cell]) -> list[Point]:
    """Every panel's points, method by method, by length."""
    labels = method_labels(cells)
    found = [*_needles(cells, labels), *_ruler(cells, labels), *_perplexity(cells, labels)]
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


def _needles(cells: Sequence[Cell], labels: dict[str, str]) -> Iterator[Point]:
    for cell in cells:
        length, hits = cell_length(cell), _numbers(cell, "accuracy")
        if not form(cell) or not length or not hits:
            continue
        name = form_title(form(cell)).capitalize()
        low, high = wilson(round(sum(hits) / 100), len(hits))
        own = model_name(cell), labels[cell.model], length
        share = sum(hits) / len(hits)
        yield Point(f"{name}: found, %", *own, share, len(hits), 100 * low, 100 * high)
        if nll := _numbers(cell, "answer_nll"):
            ends = _ends(figure_interval(cell, "answer_nll"))
            mean = sum(nll) / len(nll)
            yield Point(f"{name}: answer NLL per token", *own, mean, len(nll), *ends)


def _ruler(cells: Sequence[Cell], labels: dict[str, str]) -> Iterator[Point]:
    """A panel a task, so that all points of a line are about the same thing: of the tasks, those
    that reach the most lengths past the window (without one, any), or two of them at least."""
    window, by_task = trained_window(cells) or 0, defaultdict[str, list[tuple[int, Cell]]](list)
    for cell in cells:
        length = cell_length(cell)
        if _facts(cell).get("benchmark") == "ruler" and length and "score" in cell.result:
            by_task[str(_facts(cell).get("task"))].append((length, cell))
    reach = {task: len({n for n, _ in own if n > window}) for task, own in by_task.items()}
    enough = min(2, max(reach.values(), default=0))
    kinds = {task: next((k for k in _RULER if task.startswith(k)), task) for task in by_task}
    order = [*_RULER, *kinds.values()]
    for task in sorted(by_task, key=lambda task: (order.index(kinds[task]), task)):
        if reach[task] < enough:
            continue
        panel = f"RULER, {task} ({_RULER.get(kinds[task], 'task')}): score"
        for length, cell in by_task[task]:
            ends = _ends(figure_interval(cell, "score"))
            where = model_name(cell), labels[cell.model], length
            yield Point(panel, *where, float(cell.result["score"]), len(cell.details), *ends)


def _perplexity(cells: Sequence[Cell], labels: dict[str, str]) -> Iterator[Point]:
    """Means over the places of each doubling of the length; a place read twice counts once."""
    found: dict[str, dict[int, float]] = defaultdict(dict)
    first: dict[str, Cell] = {}
    for cell in cells:
        if _facts(cell).get("benchmark") != "perplexity":
            continue
        first.setdefault(cell.model, cell)
        for detail in cell.details:
            if detail.get("answer_nll") is not None and detail.get("position"):
                found[cell.model][int(detail["position"])] = float(detail["answer_nll"])
    for model, places in found.items():
        doublings: dict[int, list[float]] = defaultdict(list)
        for position, nll in places.items():
            doublings[1 << (position - 1).bit_length()].append(nll)
        name = model_name(first[model])
        for length, found_there in doublings.items():
            value, n = math.exp(sum(found_there) / len(found_there)), len(found_there)
            yield Point("Perplexity by position in a book", name, labels[model], length, value, n)


def _ends(interval: Interval | None) -> tuple[float, float]:
    return (math.nan, math.nan) if interval is None else (interval.low, interval.high)


def _facts(cell: Cell) -> dict[str, Any]:
    facts: dict[str, Any] = cell.manifest.get("dataset", {})
    return facts


def _numbers(cell: Cell, key: str) -> list[float]:
    return [float(d[key]) for d in cell.details if isinstance(d.get(key), (int, float))]


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

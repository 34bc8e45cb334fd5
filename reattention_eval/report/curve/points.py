"""The points of score against length, out of a run's cells: a panel a figure, a line a method."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.report.apart import apart
from reattention_eval.report.fields import is_count
from reattention_eval.report.heatmap import trained_window
from reattention_eval.report.intervals import Interval
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.measures import cell_length, metrics, sample_count
from reattention_eval.report.needles import form, form_title
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import MOST_NLL, figure_interval

COLUMNS = ("panel", "model", "method", "length", "value", "low", "high", "n")
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

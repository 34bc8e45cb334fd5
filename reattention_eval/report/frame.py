"""The one data frame: every figure of a run with n and interval, averages too. Tables, files, page
and comparisons are made of it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from reattention_eval.report.apart import apart, prompts_of
from reattention_eval.report.intervals import Interval, interval_of_mean
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.measures import (
    cell_length,
    figures_of,
    sample_count,
    selection,
)
from reattention_eval.report.places import Place, places
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import LOWER_IS_BETTER, figure_interval

# the figures that stand for a task and are averaged, and what a reader calls them
FIGURES = {
    "score": "official score",
    "opencompass_score": "OpenCompass's score",
    "answer_nll": "answer NLL per token (lower is better)",
    "perplexity": "perplexity (lower is better)",
}
TASKS, GROUPS = "all tasks", "all groups"


@dataclass(frozen=True)
class Row:
    """One model under one method, asked in one way; `cells` by dataset abbreviation."""

    model: str
    method: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Figure:
    """One figure of one row: of a dataset, or an average of several (`average_of` says which).

    value: NaN where there is none; `cells` say why. interval: None where the files do not say what
    each sample scored, or a single sample says nothing. best: no other figure of the same prompts
    is better beyond the intervals, and some are worse.
    """

    row: Row
    metric: str
    value: float
    interval: Interval | None
    cells: tuple[Cell, ...] = field(repr=False)
    place: Place | None = None
    average_of: str = ""
    best: bool = False

    @property
    def n(self) -> int:
        """Samples behind it."""
        return sum(map(sample_count, self.cells))

    @property
    def dataset(self) -> str:
        return "" if self.average_of else self.cells[0].dataset

    @property
    def length(self) -> int | None:
        return self.place.length if self.place else cell_length(self.cells[0])

    def as_dict(self) -> dict[str, Any]:
        """Plain values by column; None where there is none."""
        chosen, known = (sum(part) for part in zip(*map(selection, self.cells), strict=True))
        first, about = self.cells[0], self.cells[0].facts
        low, high, kind = self.interval or (None, None, None)
        return {
            "model": self.row.model,
            "method": self.row.method,
            "budget": first.manifest.get("method", {}).get("budget"),
            "benchmark": self.place.benchmark if self.place else about.get("benchmark"),
            "group": None if self.average_of or not self.place else self.place.group,
            "task": None if self.average_of else about.get("task"),
            "dataset": self.dataset or None,
            "length": self.length,
            "average_of": self.average_of or None,
            "tasks": len(self.cells),
            "n": self.n,
            "n_failed": sum(len(failed(cell.records)) for cell in self.cells),
            "metric": self.metric,
            "value": None if math.isnan(self.value) else self.value,
            "low": low,
            "high": high,
            "interval": kind,
            "best": self.best,
            "n_selected": chosen if known else None,
            "selected_share": chosen / known if known else None,
        }  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """All rows and figures of a run, or of several read together."""

    cells: list[Cell] = field(repr=False)
    rows: list[Row]
    figures: list[Figure]
    _by_key: dict[Hashable, Figure] = field(repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        for figure in self.figures:
            if figure.average_of and figure.place:
                where = figure.place.sheet
                self._by_key[id(figure.row), where, figure.average_of, figure.metric] = figure
            else:
                self._by_key[id(figure.cells[0]), figure.metric] = figure

    def figure(self, cell: Cell, metric: str) -> Figure | None:
        """A dataset's."""
        return self._by_key.get((id(cell), metric))

    def average(
        self, row: Row, sheet: tuple[str, int], average_of: str, metric: str
    ) -> Figure | None:
        """Of tasks of a benchmark at a length; None where a task is missing."""
        return self._by_key.get((id(row), sheet, average_of, metric))


def make_frame(cells: Sequence[Cell]) -> Frame:
    """Rows of cells that were asked alike, the figures of each, and averages where none is missing.

    No cell whose prompts, template or scoring differ from another's is averaged with it: it stands
    in a row of its own, whose name says what differs.
    """
    where = places(cells)
    rows = _rows(cells, where)
    figures = [
        Figure(row, metric, value, figure_interval(cell, metric), (cell,), where.get(cell.dataset))
        for row in rows
        for cell in row.cells.values()
        for metric, value in figures_of(cell).items()
    ]
    figures += _averages(rows, figures, where)
    return Frame(list(cells), rows, _with_best(figures))


def _rows(cells: Sequence[Cell], where: Mapping[str, Place]) -> list[Row]:
    labels = method_labels(cells)

    def slot(cell: Cell) -> Hashable:
        place = where.get(cell.dataset)
        return cell.dataset if place is None else (place.sheet, place.task)

    rows = []
    for model in dict.fromkeys(cell.model for cell in cells):
        own = [cell for cell in cells if cell.model == model]
        name = model_name(next((cell for cell in own if cell.manifest), own[0]))
        # what two benchmarks do not have in common is nobody's clash
        parts: dict[Hashable, list[Cell]] = {}
        for cell in own:
            place = where.get(cell.dataset)
            parts.setdefault(place.sheet if place else None, []).append(cell)
        by_words: dict[str, dict[str, Cell]] = {}
        for part in parts.values():
            for words, alike in apart(part, slot):
                by_words.setdefault(words, {}).update({cell.dataset: cell for cell in alike})
        for words, by_dataset in by_words.items():
            rows.append(Row(name, f"{labels[model]}{f' ({words})' if words else ''}", by_dataset))
    return rows


def _averages(
    rows: Sequence[Row], figures: Sequence[Figure], where: Mapping[str, Place]
) -> Iterator[Figure]:
    """Means of each group, of all tasks, and of the groups, of every benchmark at every length."""
    by_key = {(id(figure.row), figure.dataset, figure.metric): figure for figure in figures}
    for sheet in dict.fromkeys(place.sheet for place in where.values()):
        for metric in FIGURES:
            groups = tasks_of(rows, where, sheet, metric)
            for row in rows:
                own = {where[name].task: name for name in row.cells if _in(where, name, sheet)}
                found = {
                    task: by_key.get((id(row), own.get(task, ""), metric))
                    for tasks in groups.values()
                    for task in tasks
                }
                yield from _of_row(row, metric, groups, found)


def tasks_of(
    rows: Sequence[Row], where: Mapping[str, Place], sheet: tuple[str, int], metric: str
) -> dict[str, list[str]]:
    """Tasks by group that have the figure anywhere, or none at all: those are missing, not scored
    otherwise."""
    known: dict[str, list[Mapping[str, float]]] = {}
    group: dict[str, str] = {}
    for row in rows:
        for name, cell in row.cells.items():
            if _in(where, name, sheet):
                known.setdefault(where[name].task, []).append(figures_of(cell))
                group[where[name].task] = where[name].group
    groups: dict[str, list[str]] = {}
    for task, found in known.items():
        if any(metric in own for own in found) or not any(found):
            groups.setdefault(group[task], []).append(task)
    return groups


def _in(where: Mapping[str, Place], dataset: str, sheet: tuple[str, int]) -> bool:
    return dataset in where and where[dataset].sheet == sheet


def _of_row(
    row: Row,
    metric: str,
    groups: Mapping[str, Sequence[str]],
    found: Mapping[str, Figure | None],
) -> Iterator[Figure]:
    of_groups = [
        average
        for group, tasks in groups.items()
        if (average := _mean(row, metric, group, [found[task] for task in tasks]))
    ]
    yield from of_groups
    every = [found[task] for tasks in groups.values() for task in tasks]
    if whole := _mean(row, metric, TASKS, every):
        yield whole
        between = _mean(row, metric, GROUPS, of_groups)
        if between is not None:
            yield replace(between, cells=whole.cells)


def _mean(row: Row, metric: str, name: str, parts: Sequence[Figure | None]) -> Figure | None:
    known = [part for part in parts if part is not None and not math.isnan(part.value)]
    if not known or len(known) < len(parts):
        return None
    return Figure(
        row,
        metric,
        fmean(part.value for part in known),
        interval_of_mean([(part.value, part.interval) for part in known]),
        tuple(cell for part in known for cell in part.cells),
        known[0].place,
        name,
    )


def _with_best(figures: Sequence[Figure]) -> list[Figure]:
    """Marks, among figures of one model and the same prompts, the best and what its interval does
    not tell from it; none where that would be all of them."""
    columns: dict[Hashable, list[Figure]] = {}
    for figure in figures:
        prompts = tuple((cell.dataset, prompts_of(cell)) for cell in figure.cells)
        key = (figure.row.model, figure.metric, figure.average_of, prompts)
        if not math.isnan(figure.value):
            columns.setdefault(key, []).append(figure)
    best: set[int] = set()
    for column in columns.values():
        pick = min if column[0].metric.endswith(LOWER_IS_BETTER) else max
        first = pick(column, key=lambda figure: figure.value)
        if first.interval is None:
            continue
        tied = [f for f in column if f.interval is None or f.interval.overlaps(first.interval)]
        if len(tied) < len(column):
            best |= {id(figure) for figure in tied if figure.interval is not None}
    return [replace(f, best=True) if id(f) in best else f for f in figures]

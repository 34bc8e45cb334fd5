"""Tables of benchmarks with tasks in groups: a column a task, and the averages of each group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reattention_eval.report.frame import (
    FIGURES,
    GROUPS,
    TASKS,
    Figure,
    Frame,
    Row,
    tasks_of,
)
from reattention_eval.report.measures import (
    count_words,
    figures_of,
    metrics,
    selection_words,
)
from reattention_eval.report.places import Place, places
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import PART, figure_interval, sample_values
from reattention_eval.report.shown import Shown
from reattention_eval.report.tables import (
    INTERVAL,
    Grid,
    csv_text,
    interval_columns,
    interval_words,
    shown_absent,
    shown_figure,
    titled,
)

COLUMNS = ("model", "method", "benchmark", "length", "figure", "average of", "tasks", "n", "value",
           "n_selected", "selected_share")  # fmt: skip
# a benchmark with more tasks gets its averages in a table of their own
_FEW = 6


@dataclass(frozen=True)
class Sheet:
    """All rows of a benchmark at one length under one figure; `groups`: the tasks of each."""

    frame: Frame
    benchmark: str
    length: int
    metric: str
    groups: dict[str, list[str]]
    datasets: dict[str, list[str]]  # of each task, one for each way in which it was asked
    rows: list[tuple[Row, str]]  # with what each is called

    @property
    def tasks(self) -> list[str]:
        return [task for tasks in self.groups.values() for task in tasks]

    @property
    def head(self) -> list[str]:
        """Of the averages: what each is of, and of how many tasks."""
        groups = [f"{group} ({len(own)})" for group, own in self.groups.items()]
        return [*groups, f"{TASKS} ({len(self.tasks)})", f"{GROUPS} ({len(self.groups)})"]

    def cell(self, row: Row, task: str) -> Cell | None:
        """The row's, whichever way it was asked."""
        own = (row.cells.get(dataset) for dataset in self.datasets[task])
        return next((cell for cell in own if cell is not None), None)

    def title(self, row: Row, title: str) -> str:
        """Says so where the model itself may read less than the datasets give."""
        cells = (self.cell(row, task) for task in self.datasets)
        first = next(cell for cell in cells if cell is not None)
        cut = first.manifest.get("model", {}).get("settings", {}).get("max_prompt_tokens")
        return f"{title} (prompts cut to {cut:,})" if cut and cut < self.length else title

    def averages(self, row: Row) -> dict[str, Figure | None]:
        """Of each group, of all tasks, and of the groups; None where a task is missing."""
        return {
            name: self.frame.average(row, (self.benchmark, self.length), name, self.metric)
            for name in (*self.groups, TASKS, GROUPS)
        }

    def shown(self, row: Row, task: str) -> Shown:
        """A task's column."""
        cell = self.cell(row, task)
        if cell is None:
            return Shown("-")
        figure = self.frame.figure(cell, self.metric)
        if figure is not None and not math.isnan(figure.value):
            return shown_figure(figure, 2, count_words(cell))
        unfinished = not metrics(cell) and (failed(cell.records) or not figures_of(cell))
        return shown_absent(cell) if unfinished else Shown("-")


def sheets(frame: Frame) -> Iterator[Sheet]:
    """Benchmark by benchmark, length by length, figure by figure."""
    where = places(frame.cells)
    for benchmark, length in dict.fromkeys(place.sheet for place in where.values()):
        datasets: dict[str, list[str]] = {}
        for name, place in where.items():
            if place.sheet == (benchmark, length):
                datasets.setdefault(place.task, []).append(name)
        rows = titled(frame.rows, [name for own in datasets.values() for name in own])
        for metric in FIGURES:
            groups = tasks_of([row for row, _ in rows], where, (benchmark, length), metric)
            sheet = Sheet(frame, benchmark, length, metric, groups, datasets, rows)
            if _has_any(sheet, where):
                yield sheet


def benchmark_grids(frame: Frame) -> dict[str, Grid]:
    """Tables by heading; `-` for what is missing, and for an average that would lack a task."""
    made = list(sheets(frame))
    out = _by_length(made) | _parts(frame)
    for sheet in made:
        name = f"{sheet.benchmark}, {sheet.length:,} tokens, {FIGURES[sheet.metric]}"
        tasks, averages = [], []
        for row, words in sheet.rows:
            title = sheet.title(row, words)
            tasks.append([title, *(sheet.shown(row, task) for task in sheet.tasks)])
            averages.append([title, *map(_shown_average, sheet.averages(row).values())])
        if len(sheet.tasks) > _FEW:
            out[f"{name}: averages (of so many tasks)"] = (["method", *sheet.head], averages)
            out[f"{name}: tasks"] = (["method", *sheet.tasks], tasks)
            continue
        # few tasks stand beside their one average
        whole = [[*row, mean[-2]] for row, mean in zip(tasks, averages, strict=True)]
        out[name] = (["method", *sheet.tasks, sheet.head[-2]], whole)
    return out


def averages_csv(frame: Frame) -> str:
    """One line an average; an average that would lack a task is left out."""

    def lines() -> Iterator[Sequence[object]]:
        for sheet in sheets(frame):
            for row, _ in sheet.rows:
                title = sheet.title(row, row.method)
                for name, figure in sheet.averages(row).items():
                    if figure is not None:
                        about = figure.as_dict()
                        chosen, share = about["n_selected"], about["selected_share"]
                        yield [
                            row.model, title, sheet.benchmark, sheet.length, sheet.metric, name,
                            len(figure.cells), figure.n, figure.value, chosen, share,
                            *interval_columns(figure),
                        ]  # fmt: skip

    return csv_text([*COLUMNS, *INTERVAL], lines())


def _has_any(sheet: Sheet, where: Mapping[str, Place]) -> bool:
    return any(
        sheet.frame.figure(cell, sheet.metric) is not None
        for row, _ in sheet.rows
        for name, cell in row.cells.items()
        if name in where and where[name].sheet == (sheet.benchmark, sheet.length)
    )


def _by_length(made: Sequence[Sheet]) -> dict[str, Grid]:
    """For a benchmark at several lengths: the average of all tasks, a column a length."""
    out: dict[str, Grid] = {}
    for benchmark, metric in dict.fromkeys((sheet.benchmark, sheet.metric) for sheet in made):
        own = [s for s in made if (s.benchmark, s.metric) == (benchmark, metric)]
        if len(own) < 2:
            continue
        rows: dict[str, dict[int, Shown]] = {}
        for sheet in own:
            for row, words in sheet.rows:
                mean = sheet.averages(row)[TASKS]
                title = sheet.title(row, words)
                rows.setdefault(title, {})[sheet.length] = _shown_average(mean, len(sheet.tasks))
        lengths = sorted({sheet.length for sheet in own})
        out[f"{benchmark}, {FIGURES[metric]}: average of all tasks by tokens"] = (
            ["method", *(f"{length:,}" for length in lengths)],
            [
                [title, *(cells.get(n, Shown("-")) for n in lengths)]
                for title, cells in rows.items()
            ],
        )
    return out


def _parts(frame: Frame) -> dict[str, Grid]:
    """For a task that is scored by parts of its samples: a column a part."""
    where = places(frame.cells)
    out: dict[str, Grid] = {}
    for name, place in where.items():
        for row, title in titled(frame.rows, [name]):
            cell = row.cells[name]
            own = {k.removeprefix(PART): v for k, v in metrics(cell).items() if k.startswith(PART)}
            if not own:
                continue
            heading = f"{place.benchmark}, {place.length:,} tokens, {FIGURES['score']}: parts"
            header, rows = out.setdefault(heading, (["method", *own], []))
            shown = []
            for part in header[1:]:
                interval = figure_interval(cell, PART + part)
                words = interval_words(interval, 1)
                values = sample_values(cell, PART + part)
                words += f" (n={len(values)})" if values else ""
                shown.append(Shown(f"{own[part]:.2f}{words}", own[part]) if part in own else "-")
            assert isinstance(rows, list)
            rows.append([title, *shown])
    return out


def _shown_average(figure: Figure | None, tasks: int = 0) -> Shown:
    """With how many tasks it is of, where no heading says so, the number of samples, and how often
    the method selected."""
    if figure is None:
        return Shown("-")
    counted = f"{tasks} task{'s' * (tasks > 1)}" if tasks else ""
    words = [counted, f"n={figure.n}", selection_words(figure.cells)]
    return shown_figure(figure, 2, ", ".join(filter(None, words)))

"""Tables of benchmarks with tasks in groups: a column a task, and the averages of each group."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.tables import (
    Grid,
    absent_words,
    count_words,
    metrics,
    selection,
    selection_words,
)

# the figures that stand for a task, and what a reader calls them
FIGURES = {
    "score": "official score",
    "opencompass_score": "OpenCompass's score",
    "answer_nll": "answer NLL per token (lower is better)",
}
COLUMNS = ("model", "method", "benchmark", "length", "figure", "average of", "tasks", "value",
           "n_selected", "selected_share")  # fmt: skip
# a benchmark with more tasks gets its averages in a table of their own
_FEW = 6
TASKS, GROUPS = "all tasks", "all groups"
# a task's official score on a part of its samples: score_easy
PART = "score_"


@dataclass(frozen=True)
class Place:
    """Where a dataset stands: its benchmark, prompt length, task and the task's group."""

    benchmark: str
    length: int
    task: str
    group: str


def places(cells: Sequence[Cell]) -> dict[str, Place]:
    """The place of each dataset of a benchmark with tasks in groups, by its abbreviation."""
    found = {}
    for cell in cells:
        facts = cell.manifest.get("dataset", {})
        if all(facts.get(key) for key in ("benchmark", "task", "group", "length")):
            found[cell.dataset] = Place(
                str(facts["benchmark"]),
                int(facts["length"]),
                str(facts["task"]),
                str(facts["group"]),
            )
    return found


@dataclass(frozen=True)
class Row:
    """One model and method on the tasks of a benchmark at one length; None: no figure."""

    model: str
    method: str
    values: dict[str, float | None]  # by task
    cells: dict[str, Cell | None]

    def title(self, with_model: bool) -> str:
        return f"{self.model}: {self.method}" if with_model else self.method


@dataclass(frozen=True)
class Sheet:
    """All rows of a benchmark at one length under one figure; `groups`: the tasks of each."""

    benchmark: str
    length: int
    figure: str
    groups: dict[str, list[str]]
    rows: list[Row]

    @property
    def tasks(self) -> list[str]:
        return [task for tasks in self.groups.values() for task in tasks]

    def averages(self, row: Row) -> dict[str, float | None]:
        """Means of each group, of all tasks, and of the groups; None where a task is missing."""
        out = {group: _mean([row.values[t] for t in tasks]) for group, tasks in self.groups.items()}
        each, between = _mean([row.values[t] for t in self.tasks]), _mean(list(out.values()))
        return {**out, TASKS: each, GROUPS: between}


def sheets(cells: Sequence[Cell]) -> Iterator[Sheet]:
    """Benchmark by benchmark, length by length, figure by figure."""
    where, labels = places(cells), method_labels(cells)
    by_key = {(cell.model, cell.dataset): cell for cell in cells}
    own = [cell for cell in cells if cell.dataset in where]
    for benchmark, length in dict.fromkeys(
        (where[cell.dataset].benchmark, where[cell.dataset].length) for cell in own
    ):
        datasets = {
            where[cell.dataset].task: cell.dataset
            for cell in own
            if (where[cell.dataset].benchmark, where[cell.dataset].length) == (benchmark, length)
        }
        models = [m for m in dict.fromkeys(c.model for c in own) if _any(by_key, m, datasets)]
        for figure in FIGURES:
            groups: dict[str, list[str]] = {}
            for task, dataset in datasets.items():
                if _belongs([c for c in own if c.dataset == dataset], figure):
                    groups.setdefault(where[dataset].group, []).append(task)
            rows = []
            for model in models:
                found = {task: by_key.get((model, name)) for task, name in datasets.items()}
                first = next(cell for cell in found.values() if cell is not None)
                rows.append(
                    Row(
                        model_name(first),
                        labels[model] + _cut(first, length),
                        {
                            t: None if c is None else metrics(c).get(figure)
                            for t, c in found.items()
                        },
                        found,
                    )
                )
            if any(value is not None for row in rows for value in row.values.values()):
                yield Sheet(benchmark, length, figure, groups, rows)


def benchmark_grids(cells: Sequence[Cell]) -> dict[str, Grid]:
    """Tables by heading; `-` for what is missing, and for an average that would lack a task."""
    made = list(sheets(cells))
    several = len({model_name(cell) for cell in cells}) > 1
    out = _by_length(made, several) | _parts(cells, several)
    for sheet in made:
        name = f"{sheet.benchmark}, {sheet.length:,} tokens, {FIGURES[sheet.figure]}"
        tasks, averages = [], []
        for row in sheet.rows:
            title = row.title(several)
            tasks.append([title, *(_shown(row.values[t], row.cells[t]) for t in sheet.tasks)])
            averages.append([title, *_shown_averages(sheet, row)])
        head = [f"{group} ({len(own)})" for group, own in sheet.groups.items()]
        head += [f"{TASKS} ({len(sheet.tasks)})", f"{GROUPS} ({len(sheet.groups)})"]
        if len(sheet.tasks) > _FEW:
            out[f"{name}: averages (of so many tasks)"] = (["method", *head], averages)
            out[f"{name}: tasks"] = (["method", *sheet.tasks], tasks)
            continue
        # few tasks stand beside their one average
        whole = [[*row, mean[-2]] for row, mean in zip(tasks, averages, strict=True)]
        out[name] = (["method", *sheet.tasks, head[-2]], whole)
    return out


def _by_length(made: Sequence[Sheet], with_model: bool) -> dict[str, Grid]:
    """For a benchmark at several lengths: the average of all tasks, a column a length."""
    out: dict[str, Grid] = {}
    for benchmark, figure in dict.fromkeys((sheet.benchmark, sheet.figure) for sheet in made):
        own = [s for s in made if (s.benchmark, s.figure) == (benchmark, figure)]
        if len(own) < 2:
            continue
        rows: dict[str, dict[int, str]] = {}
        for sheet in own:
            for row in sheet.rows:
                mean = sheet.averages(row)[TASKS]
                words = [str(len(sheet.tasks)), selection_words(_of(row, sheet.tasks))]
                shown = "-" if mean is None else f"{mean:.2f} ({', '.join(filter(None, words))})"
                rows.setdefault(row.title(with_model), {})[sheet.length] = shown
        lengths = sorted({sheet.length for sheet in own})
        out[f"{benchmark}, {FIGURES[figure]}: average (of so many tasks) by tokens"] = (
            ["method", *(f"{length:,}" for length in lengths)],
            [[title, *(cells.get(n, "-") for n in lengths)] for title, cells in rows.items()],
        )
    return out


def _parts(cells: Sequence[Cell], with_model: bool) -> dict[str, Grid]:
    """For a task that is scored by parts of its samples: a column a part."""
    where, labels = places(cells), method_labels(cells)
    out: dict[str, Grid] = {}
    for cell in cells:
        own = {k.removeprefix(PART): v for k, v in metrics(cell).items() if k.startswith(PART)}
        if cell.dataset in where and own:
            place = where[cell.dataset]
            name = f"{place.benchmark}, {place.length:,} tokens, {FIGURES['score']}: parts"
            header, rows = out.setdefault(name, (["method", *own], []))
            label = labels[cell.model] + _cut(cell, place.length)
            title = f"{model_name(cell)}: {label}" if with_model else label
            figures = [own.get(part) for part in header[1:]]
            rows.append([title, *("-" if v is None else f"{v:.2f}" for v in figures)])
    return out


def averages_csv(cells: Sequence[Cell]) -> str:
    """One line an average; an average that would lack a task is left out."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for sheet in sheets(cells):
        sizes = {group: len(tasks) for group, tasks in sheet.groups.items()}
        sizes |= {TASKS: len(sheet.tasks), GROUPS: len(sheet.tasks)}
        for row in sheet.rows:
            for name, value in sheet.averages(row).items():
                if value is not None:
                    own = _of(row, sheet.groups.get(name, sheet.tasks))
                    counts = [selection(cell) for cell in own if cell is not None]
                    chosen, known = sum(c for c, _ in counts), sum(n for _, n in counts)
                    share = f"{chosen / known:.6g}" if known else ""
                    writer.writerow(
                        [row.model, row.method, sheet.benchmark, sheet.length, sheet.figure,
                         name, sizes[name], f"{value:.6g}", chosen if known else "", share]
                    )  # fmt: skip
    return out.getvalue()


def _belongs(cells: Sequence[Cell], figure: str) -> bool:
    """Whether a task has the figure anywhere, or none at all: then it is missing, not scored
    otherwise."""
    known = [metrics(cell) for cell in cells]
    return any(figure in found for found in known) or not any(known)


def _any(cells: dict[tuple[str, str], Cell], model: str, datasets: dict[str, str]) -> bool:
    return any((model, dataset) in cells for dataset in datasets.values())


def _cut(cell: Cell, length: int) -> str:
    """Says so where the model itself may read less than the datasets give."""
    cut = cell.manifest.get("model", {}).get("settings", {}).get("max_prompt_tokens")
    return f" (prompts cut to {cut:,})" if cut and cut < length else ""


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _of(row: Row, tasks: Sequence[str]) -> list[Cell | None]:
    return [row.cells[task] for task in tasks]


def _shown(value: float | None, cell: Cell | None) -> str:
    if cell is None:
        return "-"
    if value is not None:
        return f"{value:.2f} ({count_words(cell)})"
    return absent_words(cell) if not metrics(cell) and failed(cell.records) else "-"


def _shown_averages(sheet: Sheet, row: Row) -> list[str]:
    shown = []
    for name, value in sheet.averages(row).items():
        words = selection_words(_of(row, sheet.groups.get(name, sheet.tasks)))
        text = "-" if value is None else f"{value:.2f}"
        shown.append(f"{text} ({words})" if words and value is not None else text)
    return shown

"""The frame as tables: a row a figure for machines (csv), method x length for readers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from reattention_eval.report.columns import columns
from reattention_eval.report.frame import FIGURES, Figure, Frame, Row
from reattention_eval.report.intervals import Interval
from reattention_eval.report.measures import (
    EFFORT,
    absent,
    absent_words,
    cell_length,
    count_words,
    effort,
    figures_of,
    sample_count,
)
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import FAILED, MISSING, UNFINISHED, Shown, visible

COLUMNS = (
    "model",
    "method",
    "budget",
    "dataset",
    "length",
    "n",
    "n_failed",
    "metric",
    "value",
)
INTERVAL = ("low", "high", "interval", "best")  # of the value, 95 %, and its kind
HEADINGS = {
    "accuracy": "accuracy, %",
    "score": "score, 0-100",
    "answer_nll": FIGURES["answer_nll"],
    "perplexity": FIGURES["perplexity"],
}
Grid = tuple[list[str], Sequence[Sequence[str]]]  # header, rows


def csv_table(frame: Frame) -> str:
    """One line for each cell and metric, with interval and what it cost."""

    def lines() -> Iterable[list[Any]]:
        for row in frame.rows:
            for cell in row.cells.values():
                cost = effort(cell)
                head = [
                    row.model, row.method, cell.manifest.get("method", {}).get("budget") or "",
                    cell.dataset, cell_length(cell) or "", sample_count(cell),
                    len(failed(cell.records)),
                ]  # fmt: skip
                for metric in figures_of(cell) or [absent(cell)]:
                    figure = frame.figure(cell, metric)
                    value = math.nan if figure is None else figure.value
                    tail = [cost[key] for key in EFFORT]
                    yield [*head, metric, value, *tail, *interval_columns(figure)]

    return csv_text([*COLUMNS, *EFFORT, *INTERVAL], lines())


def interval_columns(figure: Figure | None) -> list[Any]:
    """What stands under `INTERVAL`."""
    if figure is None or figure.interval is None:
        return ["", "", "", ""]
    return [*figure.interval, "best" if figure.best else ""]


def csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Six digits a number; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_plain(value) for value in line] for line in lines)
    return out.getvalue()


def grids(frame: Frame, datasets: Sequence[str] | None = None) -> dict[str, Grid]:
    """One method x dataset grid for each metric, keyed by its heading; of all datasets, or these.

    Every figure has its 95 % interval where the samples' own scores are there. A cell that was
    asked for and has no result shows as `missing` or `failed`, one that was not asked for as `-`; n
    is part of every value, so that unequal counts are seen, and so is the share of samples in which
    the method selected.
    """
    if datasets is None:
        datasets = list(dict.fromkeys(cell.dataset for cell in frame.cells))
    own = [cell for row in frame.rows for name, cell in row.cells.items() if name in datasets]
    # without any result there is still a table, which says so
    found = dict.fromkeys(m for cell in own for m in figures_of(cell)) or ["score"]
    return {
        HEADINGS.get(metric, metric): grid_of(frame, datasets, partial(_value, frame, metric))
        for metric in found
    }


def grid_of(frame: Frame, datasets: Sequence[str], shown: Callable[[Cell | None], str]) -> Grid:
    """A method x dataset grid of what `shown` makes of each cell; None: not asked for."""
    heads = columns(frame, datasets)
    rows = [
        [title, *(shown(row.cells.get(dataset)) for dataset in heads)]
        for row, title in titled(frame.rows, datasets)
    ]
    return ["method", *heads.values()], rows


def titled(rows: Sequence[Row], datasets: Iterable[str]) -> list[tuple[Row, str]]:
    """The rows that have one of the datasets, with what they are called among each other."""
    wanted = set(datasets)
    own = [row for row in rows if wanted & row.cells.keys()]
    several = len({row.model for row in own}) > 1
    return [(row, f"{row.model}: {row.method}" if several else row.method) for row in own]


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table, the best in bold."""
    header, rows = grid
    lines = [
        [markdown_text(word) for word in header],
        ["---", *["---:"] * (len(header) - 1)],
        *([_bold(markdown_text(word), word) for word in row] for row in rows),
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def plain(grid: Grid) -> Grid:
    """The same of cells that hold nothing but what can be printed."""
    header, rows = grid
    shown = [
        [word if isinstance(word, Shown) else Shown(visible(word)) for word in row] for row in rows
    ]
    return [visible(word) for word in header], shown


def interval_words(interval: Interval | None, digits: int) -> str:
    """` [12.3, 45.6]`; nothing without one."""
    if interval is None:
        return ""
    return f" [{interval.low:.{digits}f}, {interval.high:.{digits}f}]"


def shown_absent(cell: Cell) -> Shown:
    """What stands in the place of a cell without figures."""
    words = absent_words(cell)
    state = next((s for s in (FAILED, UNFINISHED) if words.startswith(s)), MISSING)
    return Shown(words, state=state)


def _value(frame: Frame, metric: str, cell: Cell | None) -> Shown:
    if cell is None:
        return Shown("-")
    if not figures_of(cell):
        return shown_absent(cell)
    figure = frame.figure(cell, metric)
    words = ", ".join(filter(None, (count_words(cell), _cut_words(cell))))
    return Shown("-") if figure is None else shown_figure(figure, 1, words)


def _cut_words(cell: Cell) -> str:
    """Where the model itself may read less than the dataset's prompts have."""
    cut = cell.manifest.get("model", {}).get("settings", {}).get("max_prompt_tokens")
    length = cell_length(cell)
    return f"cut to {cut:,}" if cut and length and cut < length else ""


def shown_figure(figure: Figure, digits: int, words: str = "") -> Shown:
    """Value, interval, and in parentheses what stands behind it."""
    nats = figure.metric in ("answer_nll", "perplexity")
    digits = 2 if nats else digits
    # the ends of a score's interval need no more digits than it is wide
    ends = digits if nats else digits - 1
    text = f"{figure.value:.{digits}f}{interval_words(figure.interval, ends)}"
    return Shown(f"{text} ({words})" if words else text, figure.value, figure.best)


def _bold(text: str, word: str) -> str:
    return f"**{text}**" if getattr(word, "best", False) else text


_MARKDOWN: Mapping[int, str] = str.maketrans(
    {"|": "\\|", "<": "&lt;", "\n": " ", "\t": " "}  # a name may hold what a table is made of
)


def markdown_text(word: str) -> str:
    """Text that Markdown shows as it is, inside a table too."""
    return visible(word).translate(_MARKDOWN)


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return "" if value is None else str(value)

"""Tables of a run: a row a number for machines (csv), method x length for readers."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

from reattention_eval.report.intervals import accuracy_interval
from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.needles import first_token_seconds
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell

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
EFFORT = (
    "mean_tokens",
    "n_cut_samples",
    "n_selected",
    "selected_share",
    "mean_view",
    "decode_view",
    "keys_kept",
    "cache_bytes",
    "prefill_seconds",
    "reused_tokens",
    "decode_tokens_per_second",
    "peak_bytes",
    "first_token_seconds",
)
INTERVAL = ("low", "high")  # of the value, 95 %
HEADINGS = {
    "accuracy": "accuracy, %",
    "score": "score, 0-100",
    "answer_nll": "answer NLL per token (lower is better)",
}
NEVER = "never selected"
# read together: what was answered, and how near the right answer was
BOTH = ("accuracy", "answer_nll")
BOTH_HEADING = "accuracy, % / answer NLL per token (lower is better)"


def cell_length(cell: Cell) -> int | None:
    """The asked prompt length in tokens, for datasets that have one."""
    length = cell.manifest.get("dataset", {}).get("length")
    return int(length) if length else None


def metrics(cell: Cell) -> dict[str, float]:
    """The evaluator's numbers, `n` aside; one that is NaN is among `no_numbers` instead."""
    return {name: value for name, value in _figures(cell).items() if not math.isnan(value)}


def no_numbers(cell: Cell) -> list[str]:
    """The evaluator's figures that are NaN."""
    return [name for name, value in _figures(cell).items() if math.isnan(value)]


def _figures(cell: Cell) -> dict[str, float]:
    return {
        key: float(value)
        for key, value in cell.result.items()
        if key != "n" and isinstance(value, (int, float)) and not isinstance(value, bool)
    }


def sample_count(cell: Cell) -> int:
    """Samples that were scored; 0 without a result."""
    if not cell.result:
        return 0
    # evaluators of OpenCompass's own do not count
    counted = cell.manifest.get("dataset", {}).get("n") or len(cell.records) or cell.n_predictions
    return int(cell.result.get("n", counted))


def selection(cell: Cell) -> tuple[int, int]:
    """In how many samples the method attended to a part of the cache, and of how many that is
    known; (0, 0) where no record says."""
    known = [
        r["layer_steps_selected"] > 0
        for r in cell.records.values()
        if not r.get("error") and r.get("layer_steps_selected") is not None
    ]
    return sum(known), len(known)


def selection_words(cells: Sequence[Cell | None]) -> str:
    """`selected 67%` or `never selected`, over the cells; empty for methods that select nothing."""
    own = [c for c in cells if c is not None and c.manifest.get("method", {}).get("budget")]
    counts = [selection(cell) for cell in own]
    chosen, known = sum(c for c, _ in counts), sum(n for _, n in counts)
    if not known:
        return ""
    if not chosen:
        return NEVER
    share = 100 * chosen / known
    return "selected " + ("<1%" if share < 1 else f"{math.floor(share)}%")


def count_words(cell: Cell) -> str:
    """What stands behind a figure: how many samples, and in how many the method selected."""
    return ", ".join(filter(None, (f"n={sample_count(cell)}", selection_words([cell]))))


def effort(cell: Cell) -> dict[str, float]:
    """Means over the samples' records (peak_bytes: the largest; n_cut_samples: a count;
    first_token_seconds: the median of the prompts that were read whole)."""
    rows = [r for r in cell.records.values() if not r.get("error")]

    def mean(key: str) -> float:
        values = [r[key] for r in rows if isinstance(r.get(key), (int, float))]
        return sum(values) / len(values) if values else math.nan

    chosen, known = selection(cell)
    return {
        "n_selected": chosen if known else math.nan,
        "selected_share": chosen / known if known else math.nan,
        "mean_tokens": mean("n_tokens"),
        "n_cut_samples": sum(1 for r in rows if r.get("n_cut")),
        **{key: mean(key) for key in ("mean_view", "decode_view", "keys_kept", "cache_bytes")},
        "prefill_seconds": mean("prefill_seconds"),
        "reused_tokens": mean("reused_tokens"),
        "decode_tokens_per_second": mean("decode_tokens_per_second"),
        "peak_bytes": max((r.get("peak_bytes") or 0 for r in rows), default=0),
        "first_token_seconds": median(first_token_seconds(cell) or [math.nan]),
    }


def csv_table(cells: Sequence[Cell]) -> str:
    """One line for each cell and metric, with what it cost."""
    labels = method_labels(cells)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *EFFORT, *INTERVAL])
    for cell in cells:
        cost = effort(cell)
        head = [
            model_name(cell), labels[cell.model],
            cell.manifest.get("method", {}).get("budget") or "", cell.dataset,
            cell_length(cell) or "", sample_count(cell), len(failed(cell.records)),
        ]  # fmt: skip
        tail = [_plain(cost[key]) for key in EFFORT]
        for metric, value in (_figures(cell) or {absent(cell): math.nan}).items():
            interval = accuracy_interval(cell) if metric == "accuracy" else None
            ends = [_plain(end) for end in interval or (math.nan, math.nan)]
            writer.writerow([*head, metric, _plain(value), *tail, *ends])
    return out.getvalue()


def absent(cell: Cell) -> str:
    """What stands in the place of a score that is not there."""
    return "failed" if failed(cell.records) or "error" in cell.result else "missing"


def absent_words(cell: Cell) -> str:
    """The same with how many samples failed, or are done of an unfinished dataset."""
    lost = len(failed(cell.records))
    whole = cell.manifest.get("dataset", {}).get("n") or len(cell.records)
    if lost:
        return f"{absent(cell)} ({lost} of {whole} samples)"
    if cell.records and not cell.has_predictions:
        return f"unfinished ({len(cell.records)} of {whole} samples)"
    return absent(cell)


Grid = tuple[list[str], list[list[str]]]  # header, rows


def grids(cells: Sequence[Cell]) -> dict[str, Grid]:
    """One method x dataset grid for each metric, keyed by its heading; accuracy and NLL share one.

    Accuracy of samples that are each right or wrong has its 95 % interval (`intervals.wilson`).

    A cell that was asked for and has no result shows as `missing` or `failed`, one that was not
    asked for as `-`; n is part of every value, so that unequal counts are seen, and so is the share
    of samples in which the method selected.
    """
    found = dict.fromkeys(m for c in cells for m in _figures(c))
    # without any result there is still a table, which says so
    groups: list[tuple[str, ...]] = [(name,) for name in found or ("score",)]
    if all(name in found for name in BOTH):
        groups = [BOTH, *((name,) for name in found if name not in BOTH)]
    out: dict[str, Grid] = {}
    for names in groups:
        heading = BOTH_HEADING if names == BOTH else HEADINGS.get(names[0], names[0])
        if names[0] == "accuracy" and any(map(accuracy_interval, cells)):
            heading = heading.replace("%", "% [95 % interval]", 1)
        out[heading] = grid_of(cells, partial(_value, names=names))
    return out


def grid_of(cells: Sequence[Cell], shown: Callable[[Cell | None], str]) -> Grid:
    """A method x dataset grid of what `shown` makes of each cell; None: not asked for."""
    labels, columns = method_labels(cells), _columns(cells)
    several = len({model_name(c) for c in cells}) > 1
    by_key = {(c.model, c.dataset): c for c in cells}
    rows = []
    for model in dict.fromkeys(c.model for c in cells):
        first = next(c for c in cells if c.model == model)
        title = f"{model_name(first)}: {labels[model]}" if several else labels[model]
        rows.append([title, *(shown(by_key.get((model, dataset))) for dataset in columns)])
    return ["method", *columns.values()], rows


def markdown(grid: Grid) -> str:
    """A grid as a Markdown table."""
    header, rows = grid
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _columns(cells: Sequence[Cell]) -> dict[str, str]:
    """Dataset abbreviation -> heading: the length where that alone tells the datasets apart."""
    lengths = {c.dataset: cell_length(c) for c in cells}
    for cell in cells:  # a cell without manifest must not hide a length its neighbours know
        lengths[cell.dataset] = lengths[cell.dataset] or cell_length(cell)
    known = [length for length in lengths.values() if length]
    if len(set(known)) < len(lengths):
        return {dataset: dataset for dataset in lengths}
    by_length = sorted((length or 0, dataset) for dataset, length in lengths.items())
    return {dataset: f"{length:,}" for length, dataset in by_length}


def _value(cell: Cell | None, names: Sequence[str]) -> str:
    own = {} if cell is None else _figures(cell)
    if cell is not None and not own:
        return absent_words(cell)
    if cell is None or not any(name in own for name in names):
        return "-"
    digits = {name: 2 if name == "answer_nll" else 1 for name in names}
    figures = [f"{own[name]:.{digits[name]}f}" if name in own else "-" for name in names]
    if names[0] == "accuracy" and (interval := accuracy_interval(cell)):
        figures[0] += " [{:.0f}, {:.0f}]".format(*interval)
    return f"{' / '.join(figures)} ({count_words(cell)})"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return str(value)

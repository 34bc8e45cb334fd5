"""What one cell measured: its figures, how many samples stand behind them, and what they took."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from reattention_eval.report.needles import first_token_seconds
from reattention_eval.report.predictions import Predicted
from reattention_eval.report.records import failed
from reattention_eval.report.run import Cell

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
NEVER = "never selected"


def cell_length(cell: Cell) -> int | None:
    """The asked prompt length in tokens, for datasets that have one."""
    length = cell.facts.get("length")
    return int(length) if length else None


def metrics(cell: Cell) -> dict[str, float]:
    """The evaluator's numbers, `n` aside; one that is NaN is among `no_numbers` instead."""
    return {name: value for name, value in figures_of(cell).items() if not math.isnan(value)}


def no_numbers(cell: Cell) -> list[str]:
    """The evaluator's figures that are NaN."""
    return [name for name, value in figures_of(cell).items() if math.isnan(value)]


def figures_of(cell: Cell) -> dict[str, float]:
    """The evaluator's numbers, `n` aside; NaN where it gave one."""
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
    counted = cell.manifest.get("dataset", {}).get("n") or len(cell.records) or cell.predicted.n
    return int(cell.result.get("n", counted))


def asked_count(cell: Cell) -> int:
    """Samples that there are, as far as is known."""
    known = cell.manifest.get("dataset", {}).get("n")
    if known is not None:
        return int(known)
    return max(len(cell.records), cell.predicted.n, sample_count(cell))


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


def absent(cell: Cell) -> str:
    """What stands in the place of a score that is not there."""
    raised = failed(cell.records) or "error" in cell.result or cell.reason or cell.predicted.wrong
    return "failed" if raised else "missing"


def absent_words(cell: Cell) -> str:
    """The same with how many samples failed, or are done of an unfinished dataset."""
    lost = len(failed(cell.records))
    whole = cell.manifest.get("dataset", {}).get("n") or len(cell.records)
    if lost:
        return f"{absent(cell)} ({lost} of {whole} samples)"
    if cell.records and cell.predicted == Predicted():
        return f"unfinished ({len(cell.records)} of {whole} samples)"
    return "not scored" if cell.has_predictions and not cell.result else absent(cell)

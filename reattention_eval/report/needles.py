"""Needle tests: their forms apart, and what a prompt of each length took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from reattention_eval.report.run import Cell

NEEDLE, MANY_DEPTHS = "needle", "many_depths"
# a prompt of which more was in the cache already does not tell the time to its first token
_REUSED_SHARE = 0.01


def form(cell: Cell) -> str:
    """Style of a needle test; empty for any other dataset."""
    facts = cell.manifest.get("dataset", {})
    return str(facts.get("task") or "") if facts.get("benchmark") == NEEDLE else ""


def by_form(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each form, which no table or picture mixes.

    A cell without a manifest goes with those of its dataset that have one, or where all others go.
    """
    known = {cell.dataset: form(cell) for cell in cells if cell.manifest}
    forms = set(known.values())
    elsewhere = forms.pop() if len(forms) == 1 else ""
    out: dict[str, list[Cell]] = {}
    for cell in cells:
        out.setdefault(known.get(cell.dataset, elsewhere), []).append(cell)
    return out


def form_title(name: str) -> str:
    """What tables and pictures call a form."""
    if name == MANY_DEPTHS:
        return "needles at many depths of one haystack"
    return f"one needle in a haystack, {name}" if name else ""


def first_token_seconds(cell: Cell) -> list[float]:
    """Prefill seconds of the prompts that were read from their beginning."""
    return [
        float(record["prefill_seconds"])
        for record in cell.records.values()
        if not record.get("error")
        and record.get("prefill_seconds") is not None
        and (record.get("reused_tokens") or 0) <= _REUSED_SHARE * (record.get("n_tokens") or 0)
    ]


def _first_token_words(cell: Cell | None) -> str:
    seconds = first_token_seconds(cell) if cell else []
    return f"{median(seconds):,.1f} (n={len(seconds)})" if seconds else "-"


def _peak_words(cell: Cell | None) -> str:
    peaks = [r.get("peak_bytes") or 0 for r in cell.records.values()] if cell else []
    return f"{max(peaks) / 2**30:.1f}" if any(peaks) else "-"


# what a length took: what stands in a cell, by heading
COSTS: dict[str, Callable[[Cell | None], str]] = {
    "time to the first token, seconds (median of n prompts read whole)": _first_token_words,
    "peak memory, GiB": _peak_words,
}

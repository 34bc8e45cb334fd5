"""Needle tests: their forms apart, and what a prompt of each length took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

from reattention_eval.machine_memory import GIB
from reattention_eval.report.intervals import median_interval
from reattention_eval.report.run import Cell
from reattention_eval.report.shown import Shown

NEEDLE, MANY_DEPTHS = "needle", "many_depths"
# a prompt of which more was in the cache already does not tell the time to its first token
_REUSED_SHARE = 0.01


def form(cell: Cell) -> str:
    """Style of a needle test; empty for any other dataset."""
    is_needle = cell.facts.get("benchmark") == NEEDLE
    return str(cell.facts.get("task") or "") if is_needle else ""


def by_form(cells: Sequence[Cell]) -> dict[str, list[Cell]]:
    """The cells of each form, which no table or picture mixes, in the order of the cells.

    A cell of which nothing is known goes with those of its dataset, or where all others go.
    """
    known = {cell.dataset: form(cell) for cell in cells if cell.facts}
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


def token_seconds(cell: Cell) -> list[float]:
    """Seconds a decoded token of each prompt."""
    speeds = (r.get("decode_tokens_per_second") for r in cell.records.values())
    return [1 / float(speed) for speed in speeds if speed and speed > 0]


def peaks(cell: Cell) -> list[float]:
    """GiB that each prompt took at most."""
    found = (r.get("peak_bytes") for r in cell.records.values() if not r.get("error"))
    return [float(peak) / GIB for peak in found if peak and peak > 0]


def _median_words(values: Callable[[Cell], list[float]], digits: int, cell: Cell | None) -> Shown:
    found = values(cell) if cell else []
    if not found:
        return Shown("-")
    middle, ends = median(found), median_interval(found)
    words = f" [{ends[0]:,.{digits}f}, {ends[1]:,.{digits}f}]" if ends else ""
    return Shown(f"{middle:,.{digits}f}{words} (n={len(found)})", middle)


def _peak_words(cell: Cell | None) -> Shown:
    found = peaks(cell) if cell else []
    return Shown(f"{max(found):.1f} (n={len(found)})", max(found)) if found else Shown("-")


# what a length took: what stands in a cell, by heading
TIMES: dict[str, Callable[[Cell | None], Shown]] = {
    "time to the first token, seconds (median of n prompts read whole)": partial(
        _median_words, first_token_seconds, 1
    ),
    "time per output token, seconds (median of n prompts)": partial(
        _median_words, token_seconds, 3
    ),
}
MEMORY: dict[str, Callable[[Cell | None], Shown]] = {
    "peak memory, GiB (the most of n prompts)": _peak_words,
}

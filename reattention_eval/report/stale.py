"""Results that are of other predictions than those that are there.

A result outlives the predictions that it was made of: where these were deleted and made again,
OpenCompass does not score them a second time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reattention_eval.report.fields import is_count
from reattention_eval.report.measures import asked_count
from reattention_eval.report.run import Cell
from reattention_eval.report.running_score import is_joined
from reattention_eval.report.sample_scores import details_by_index

_RESCORE = (
    "so its result is of earlier predictions; delete it and score again "
    "(`opencompass CONFIG -m eval -r`)."
)
_KEPT = ("prediction", "answer_nll")  # what evaluators tell of a sample as they were given it


def stale(cell: Cell, saved: Mapping[int, Mapping[str, Any]] | None = None) -> str | None:
    """Why the figures are not those of the answers, in a sentence; None where they are, as far as
    is seen.

    Args:
        saved: the predictions file's entries, for samples whose record is lost.
    """
    # others' evaluators keep answers as they cut them, and a joined one is of two records
    if not cell.result or not cell.facts.get("benchmark") or is_joined(cell.facts):
        return None
    n = asked_count(cell)
    counted: Any = cell.result.get("n")
    details = cell.result.get("details")
    scored = [counted] if is_count(counted) and counted > n else []
    if isinstance(details, list) and 0 < len(details) < n:
        scored = [len(details)]
    if scored:
        return f"{scored[0]} samples were scored where {n} were asked, {_RESCORE}"
    by_index = details_by_index(cell)
    others = [
        index
        for index, told in sorted({**(saved or {}), **cell.records}.items())
        if any(_differ(told, detail) for detail in by_index.get(index, ()))
    ]
    if not others:
        return None
    return (
        f"{len(others)} of {n} samples were scored by other answers than their records hold "
        f"(sample {others[0]}), {_RESCORE}"
    )


def _differ(told: Mapping[str, Any], scored: Mapping[str, Any]) -> bool:
    pairs = [(told.get(name), scored.get(name)) for name in _KEPT]
    # NaN is not even itself
    return any(None not in (a, b) and a != b and (a == a or b == b) for a, b in pairs)

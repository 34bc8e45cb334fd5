"""Results that are of other predictions than those that are there.

A result outlives the predictions that it was made of: where these were deleted and made again,
OpenCompass does not score them a second time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.report.fields import is_count
from reattention_eval.report.measures import asked_count, figures_of
from reattention_eval.report.run import Cell
from reattention_eval.report.running_score import is_joined, joined_answer
from reattention_eval.report.sample_scores import details_by_index

_RESCORE = (
    "so its result is of earlier predictions; delete it and score again "
    "(`opencompass CONFIG -m eval -r`)."
)
_KEPT = ("prediction", "answer_nll")  # what evaluators tell of a sample as they were given it
Given = Mapping[int, Mapping[str, Any]]


def stale(cell: Cell, saved: Given | None = None) -> str | None:
    """Why the figures are not those of the answers, in a sentence; None where they are, as far as
    is seen.

    Args:
        saved: the predictions file's entries, for samples whose record is lost.
    """
    # others' evaluators keep answers as they cut them
    if not cell.result or not cell.facts.get("benchmark"):
        return None
    given: Given = {**(saved or {}), **cell.records}
    n = asked_count(cell)
    if is_joined(cell.facts):
        given, n = _joined(given, cell.details), n // 2
    counted: Any = cell.result.get("n")
    details = cell.result.get("details")
    scored = [counted] if is_count(counted) and counted > n else []
    if isinstance(details, list) and 0 < len(details) < n:
        scored = [len(details)]
    if counted is None and not details and figures_of(cell):
        return f"its result says neither its number of samples nor what each scored, {_RESCORE}"
    if scored:
        return f"{scored[0]} samples were scored where {n} were asked, {_RESCORE}"
    by_index = details_by_index(cell)
    others = [
        index
        for index, told in sorted(given.items())
        if any(_differ(told, detail) for detail in by_index.get(index, ()))
    ]
    if not others:
        return None
    return (
        f"{len(others)} of {n} samples were scored by other answers than their records hold "
        f"(sample {others[0]}), {_RESCORE}"
    )


def _joined(given: Given, details: Sequence[Mapping[str, Any]]) -> Given:
    """Two prompts that are one sample, by the first's index: of a document all first prompts come
    before all second ones."""
    each = Counter(str(detail.get("document")) for detail in details)
    found = {}
    for detail in details:
        first: Any = detail.get("index")
        if is_count(first):
            places = first, first + each[str(detail.get("document"))]
            texts = [given[place].get("prediction") for place in places if place in given]
            if len(texts) == 2 and None not in texts:
                found[first] = {"prediction": joined_answer(*map(str, texts))}
    return found


def _differ(told: Mapping[str, Any], scored: Mapping[str, Any]) -> bool:
    pairs = [(told[name], scored[name]) for name in _KEPT if name in told and name in scored]
    # NaN is not even itself
    return any(a != b and (a == a or b == b) for a, b in pairs)

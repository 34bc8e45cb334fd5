"""What each sample of a cell scored, under the names of the figures that are made of it.

An evaluator keeps an entry (detail) of each sample, or of each needle that one prompt asks for;
several of one prompt are one sample, their mean.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from reattention_eval.report.fields import is_count, is_number, place_of
from reattention_eval.report.intervals import Interval, interval_of
from reattention_eval.report.run import Cell

LOWER_IS_BETTER = ("answer_nll", "perplexity", "ppl")
# a task's official score on a part of its samples: score_easy
PART = "score_"
# what details say besides scores, and is not said elsewhere
FACTS = ("depth", "repeat", "document", "sample", "position")
_NOT_SCORES = frozenset((*FACTS, "index", "length", "n_tokens", "n_cut", "reference"))
# figures that the evaluators keep of each sample under the name that stands for the task
_MAIN = ("score", "opencompass_score")
# scores are rounded by some evaluators; a figure further off is no mean of its samples
_ROUNDED = 0.006
MOST_NLL = 700.0  # of which there is an exponential

Details = Sequence[Mapping[str, Any]]


def details_by_index(cell: Cell) -> dict[int, list[dict[str, Any]]]:
    """The evaluator's entries of each sample; {} where they do not say whose they are."""
    details = cell.result.get("details")
    if isinstance(details, dict):  # OpenCompass's own evaluators: {"type": "GEN", "0": {...}, ...}
        numbered = ((place_of(key), detail) for key, detail in details.items())
        return {i: [d] for i, d in numbered if i is not None and isinstance(d, dict)}
    counts = (cell.manifest.get("dataset", {}).get("n"), cell.result.get("n"))
    n = next((count for count in counts if count is not None), len(cell.records))
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for i, detail in _numbered(cell.details, n):
        found[i].append(detail)
    return dict(found)


def scores_of(details: Details) -> dict[str, float]:
    """Every figure of a sample."""
    named = dict.fromkeys(name for detail in details for name in detail)
    names = [*(name for name in named if name not in _NOT_SCORES), "accuracy"]
    found = ((name, score_of(details, name)) for name in names)
    return {name: score for name, score in found if score is not None}


def score_of(details: Details, name: str) -> float | None:
    """One figure of a sample, in the unit of the cell's own (percent, or nats for answer_nll)."""
    found = [value for detail in details if (value := _value(detail, name)) is not None]
    return fmean(found) if found else None


def sample_values(cell: Cell, metric: str) -> list[float] | None:
    """The samples' own values, whose mean is the cell's figure; None where the files do not say."""
    figure: Any = cell.result.get(metric)
    if not _known(figure):
        return None
    for values in _candidates(cell, metric):
        if values and math.isclose(fmean(values), float(figure), rel_tol=1e-6, abs_tol=_ROUNDED):
            return values
    return None


def figure_interval(cell: Cell, metric: str) -> Interval | None:
    """Of a cell's figure, from its samples."""
    if metric == "perplexity":  # the exponential of a mean
        within = figure_interval(cell, "answer_nll")
        if within is None or within.high > MOST_NLL:
            return None
        return Interval(math.exp(within.low), math.exp(within.high), within.kind)
    values = sample_values(cell, metric)
    found = interval_of(values) if values else None
    if found is None or not values:
        return None
    # of what cannot be negative, or is in percent, no end is
    low = 0.0 if min(values) >= 0 else -math.inf
    percent = metric not in LOWER_IS_BETTER and low == 0 and max(values) <= 100
    high = 100.0 if percent else math.inf
    return Interval(max(low, found.low), min(high, found.high), found.kind)


def _candidates(cell: Cell, metric: str) -> Iterator[list[float]]:
    # where nothing says whose the details are, each is of a sample of its own
    details = list(details_by_index(cell).values()) or [[detail] for detail in cell.details]
    names = [metric, *(m for m in _MAIN if cell.result.get(m) == cell.result[metric])]
    if metric.startswith(PART):  # the task's figure may be the same, and has more samples
        part = metric.removeprefix(PART)
        details, names = [own for own in details if _is_of(own[0], part)], ["score"]
    for name in names:
        scores = (score_of(own, name) for own in details)
        yield [score for score in scores if score is not None]
    if metric == "answer_nll":
        rows = cell.records.values()
        yield [float(r[metric]) for r in rows if _known(r.get(metric))]


def _value(detail: Mapping[str, Any], name: str) -> float | None:
    if name == "accuracy" and isinstance(detail.get("correct"), bool):
        return 100.0 * detail["correct"]  # as OpenCompass's own evaluators judge
    value = detail.get(name)
    return float(value) if value is not None and _known(value) else None


def _known(value: Any) -> bool:
    return is_number(value) and not math.isnan(value)


def _is_of(detail: Mapping[str, Any], part: str) -> bool:
    reference = detail.get("reference")
    return isinstance(reference, dict) and part in map(str, reference.values())


def _numbered(details: list[dict[str, Any]], n: int) -> Iterator[tuple[int, dict[str, Any]]]:
    if all(is_count(detail.get("index")) for detail in details):
        yield from ((detail["index"], detail) for detail in details)
        return
    documents = [(d.get("document"), d.get("sample")) for d in details]
    repeats = list(dict.fromkeys(str(detail.get("repeat")) for detail in details))
    if len(details) == n and all(is_count(d) and is_count(s) for d, s in documents):
        # prompts of one document follow each other; details are in the file's order
        order = sorted(range(n), key=lambda i: documents[i])
        yield from ((index, details[i]) for index, i in enumerate(order))
    elif len(details) == n:
        yield from enumerate(details)
    elif len(repeats) == n:  # a prompt asks for several needles
        yield from ((repeats.index(str(d.get("repeat"))), d) for d in details)

"""What each sample of a cell scored, under the names of the figures that are made of it."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reattention_eval.report.fields import is_number
from reattention_eval.report.intervals import Interval, interval_of
from reattention_eval.report.run import Cell

LOWER_IS_BETTER = ("answer_nll", "perplexity", "ppl")
# a task's official score on a part of its samples: score_easy
PART = "score_"
# figures that the evaluators keep of each sample under the name that stands for the task
_MAIN = ("score", "opencompass_score")
# scores are rounded by some evaluators; a figure further off is no mean of its samples
_ROUNDED = 0.006
_MOST_NLL = 700.0  # of which there is an exponential


def sample_values(cell: Cell, metric: str) -> list[float] | None:
    """The samples' own values, whose mean is the cell's figure; None where the files do not say.

    Several values of one prompt (needles at several depths that are asked for together) are one
    sample, their mean.
    """
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
        if within is None or within.high > _MOST_NLL:
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


def _known(value: Any) -> bool:
    return is_number(value) and not math.isnan(value)


def _candidates(cell: Cell, metric: str) -> list[list[float]]:
    details = cell.details
    if metric.startswith(PART):  # the task's figure may be the same, and has more samples
        own = [detail for detail in details if _is_of(detail, metric.removeprefix(PART))]
        return [_of_details(cell, own, "score")]
    names = [metric, *(m for m in _MAIN if cell.result.get(m) == cell.result[metric])]
    found = [_of_details(cell, details, name) for name in names]
    if metric == "accuracy":
        found.append([100.0 * detail["correct"] for detail in details if _judged(detail)])
    if metric == "answer_nll":
        rows = cell.records.values()
        found.append([float(r[metric]) for r in rows if _known(r.get(metric))])
    return found


def _of_details(cell: Cell, details: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    kept = [detail for detail in details if _known(detail.get(name))]
    values = [float(detail[name]) for detail in kept]
    prompts: dict[str, list[float]] = defaultdict(list)
    for detail, value in zip(kept, values, strict=True):
        prompts[str(detail.get("repeat"))].append(value)
    if len(prompts) == cell.result.get("n") != len(kept):
        return [fmean(own) for own in prompts.values()]
    return values


def _judged(detail: Mapping[str, Any]) -> bool:
    return isinstance(detail.get("correct"), bool)


def _is_of(detail: Mapping[str, Any], part: str) -> bool:
    reference = detail.get("reference")
    return isinstance(reference, dict) and part in map(str, reference.values())

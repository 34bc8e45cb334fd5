"""The score of samples that are done, while others are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from reattention_eval.errors import ReAttentionError

# the official figure of one record, under the name it has in tables
Scorer = Callable[[Mapping[str, Any]], tuple[str, float] | None]
NLL = "answer_nll"
# the answer that is scored is made of those of two prompts
_JOINED = {("leval", "sci_fi")}


def is_joined(dataset: Mapping[str, Any]) -> bool:
    """Whether a sample of this dataset (a manifest's part) is two prompts, scored as one answer."""
    return (str(dataset.get("benchmark")), str(dataset.get("task"))) in _JOINED


def joined_answer(*answers: str) -> str:
    """The answer that is scored, of those of its prompts."""
    from reattention_eval.benchmarks.leval import LEVAL

    return LEVAL.join(LEVAL.task("sci_fi"), answers)


def scorer_of(dataset: Mapping[str, Any]) -> Scorer | None:
    """How a record of this dataset (a manifest's part) scores by itself; None where that is not
    known: another's dataset, or libraries that are not here."""
    from reattention_eval.benchmarks import find_benchmark, list_benchmarks

    named = str(dataset.get("benchmark")), str(dataset.get("task"))
    # a path would be imported, and a file that came from elsewhere may name any
    if is_joined(dataset) or named[0] not in list_benchmarks():
        return None
    try:
        rule = find_benchmark(named[0]).rules["official"][named[1]]
    except (ReAttentionError, KeyError):
        return None

    if rule.main == NLL:  # the model's own run has it
        return _likelihood

    def score(record: Mapping[str, Any]) -> tuple[str, float] | None:
        if not isinstance(record.get("prediction"), str) or record.get("gold") is None:
            return None
        try:
            figures = rule.scorer([record["prediction"]], [record["gold"]])
        # a damaged record, or a scorer's library that is absent: there is no figure, and the
        # evaluation will say why
        except Exception:
            return None
        name = "accuracy" if "accuracy" in figures else rule.main
        value = figures.get(name, math.nan)
        return None if math.isnan(value) else ("accuracy" if name == "accuracy" else "score", value)

    return score


def _likelihood(record: Mapping[str, Any]) -> tuple[str, float] | None:
    nll = record.get(NLL)
    return None if nll is None or math.isnan(nll) else (NLL, float(nll))

"""The scoring libraries, imported when first needed; each call as the official scorers make it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from reattention_eval.errors import MachineError

JIEBA, ROUGE, ROUGE_SCORE, RAPIDFUZZ = "jieba", "rouge", "rouge_score", "rapidfuzz"


def require(names: Iterable[str]) -> None:
    """Nothing if these modules are on this machine.

    Raises:
        MachineError: one is not.
    """
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise _missing(missing)


def chinese_words(text: str) -> list[str]:
    """The text cut into words by jieba's default mode; white space comes as words too."""
    words: list[str] = _jieba().lcut(text, cut_all=False)
    return words


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L F1 (0..1) of the library `rouge`; 0 where it refuses (a text without words)."""
    scorer = _rouge()  # that it is missing is no refusal
    try:
        return float(scorer.get_scores([prediction], [reference])[0]["rouge-l"]["f"])
    except (ValueError, RecursionError):
        return 0.0


def rouge_scores(
    prediction: str, reference: str | Sequence[str], kinds: tuple[str, ...]
) -> dict[str, Any]:
    """`rouge_score`'s Score of each kind, without stemming; of several references the best."""
    scorer = _rouge_score(kinds)
    if isinstance(reference, str):
        return dict(scorer.score(reference, prediction))
    return dict(scorer.score_multi(reference, prediction))


def bootstrap_medians(scores: Sequence[dict[str, Any]], seed: int) -> dict[str, float]:
    """Median F1 (0..1) over 1,000 bootstrap samples, `rouge_score`'s aggregation."""
    if len(scores) == 1:
        return {kind: float(score.fmeasure) for kind, score in scores[0].items()}
    import numpy as np

    aggregator = _module(f"{ROUGE_SCORE}.scoring").BootstrapAggregator()
    for score in scores:
        aggregator.add_scores(score)
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        return {k: float(v.mid.fmeasure) for k, v in aggregator.aggregate().items()}
    finally:
        np.random.set_state(state)


def indel_ratio(first: str, second: str) -> int:
    """0..100: what fuzzywuzzy's `ratio` gives where python-Levenshtein is installed."""
    if not first or not second:
        return 100 if first == second else 0
    indel = _module(f"{RAPIDFUZZ}.distance").Indel
    return round(100 * indel.normalized_similarity(first, second))


@functools.cache
def _jieba() -> ModuleType:
    jieba = _module(JIEBA)
    jieba.setLogLevel(logging.WARNING)
    return jieba


@functools.cache
def _rouge() -> Any:
    return _module(ROUGE).Rouge(metrics=["rouge-l"], stats=["f"])


@functools.cache
def _rouge_score(kinds: tuple[str, ...]) -> Any:
    return _module(f"{ROUGE_SCORE}.rouge_scorer").RougeScorer(list(kinds), use_stemmer=False)


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as missing:
        raise _missing([name.split(".")[0]]) from missing


def _missing(names: Sequence[str]) -> MachineError:
    which = " and ".join(map(repr, names))
    what, are = ("library", "is") if len(names) == 1 else ("libraries", "are")
    return MachineError(
        f"this task is scored with the {what} {which}, which {are} not installed: "
        "pip install 'reattention-eval[scoring]'."
    )

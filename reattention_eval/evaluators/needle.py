"""Scores of Needle-In-A-Haystack.

The paper's rule is NeedleBench's, released with OpenCompass (NeedleBenchOriginEvaluator).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from reattention_eval.evaluators.rules import TaskRule, right_answers
from reattention_eval.evaluators.text import edit_similarity


def needle_score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means over the samples, 0..100.

    `accuracy`: percent of answers with the key phrase in them, as written. `score`, the paper's:
    100 for such an answer, else 20 times the edit similarity (0..1) of answer and reference, both
    without white space.

    A reference is the key phrase itself, or "reference*key phrase" (NeedleBench's form).
    """
    hits, scores = [], []
    for prediction, reference in zip(predictions, references, strict=True):
        whole, _, key = reference.partition("*")
        (phrase,) = right_answers(key or whole)
        hit = phrase in prediction
        hits.append(100.0 * hit)
        scores.append(100.0 if hit else 20.0 * edit_similarity(_dense(prediction), _dense(whole)))
    return {"accuracy": sum(hits) / len(hits), "score": sum(scores) / len(scores)}


def parallel_score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """`score`: percent of the hidden phrases that an answer repeats, as written, 0..100.

    Each phrase has its depth, and `depth_X` is the percent found at X; `score` is their mean
    (NeedleBenchParallelEvaluator). A reference is "phrase*phrase#depth*depth".
    """
    found: dict[str, list[bool]] = {}
    for prediction, reference in zip(predictions, references, strict=True):
        phrases, _, depths = reference.partition("#")
        wanted = right_answers(phrases.split("*"))
        for phrase, depth in zip(wanted, depths.split("*"), strict=True):
            found.setdefault(depth, []).append(phrase in prediction)
    shares = {depth: 100 * sum(hits) / len(hits) for depth, hits in found.items()}
    mean = sum(shares.values()) / len(shares)
    return {"score": mean, **{f"depth_{depth}": share for depth, share in shares.items()}}


def _dense(text: str) -> str:
    return re.sub(r"\s+", "", text)


RULES = {
    "official": {
        **dict.fromkeys(
            ("magic_number", "passkey", "sentence", "needlebench", "many_depths"),
            TaskRule("score", needle_score),
        ),
        "parallel": TaskRule("score", parallel_score),
    }
}

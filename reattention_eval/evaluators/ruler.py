"""RULER's scores (Hsieh et al., 2024, arXiv 2404.06654; NVIDIA/RULER scripts/eval)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reattention_eval.evaluators.rules import TaskRule, right_answers

_NEEDLES = (
    "niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2",
    "niah_multikey_3", "niah_multivalue", "niah_multiquery",
)  # fmt: skip
_CONTROL = re.compile(r"[\x00-\x1f]")


def string_match_all(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """`score`: percent of a sample's answers that its prediction holds, in any case of letters."""
    shares = []
    for prediction, answers in zip(predictions, references, strict=True):
        hits = _hits(prediction, answers)
        shares.append(sum(hits) / len(hits))
    return {"score": 100 * sum(shares) / len(shares)}


def string_match_part(
    predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> dict[str, float]:
    """`score`: percent of samples whose prediction holds any answer, in any case of letters."""
    pairs = zip(predictions, references, strict=True)
    found = [any(_hits(prediction, answers)) for prediction, answers in pairs]
    return {"score": 100 * sum(found) / len(found)}


def _hits(prediction: str, answers: Sequence[str]) -> list[bool]:
    text = _CONTROL.sub("\n", prediction.strip()).strip().lower()
    return [answer.lower() in text for answer in right_answers(answers)]


_ALL = TaskRule("score", string_match_all)
_PART = TaskRule("score", string_match_part)
RULES = {
    "official": {
        **dict.fromkeys([*_NEEDLES, "vt", "cwe", "fwe"], _ALL),
        **dict.fromkeys(["qa_1", "qa_2"], _PART),
    }
}

"""L-Eval's 20 tasks under the official rule (its auto_eval.py) and under OpenCompass 0.5.4's.

A reference is one string of the raw row's `outputs`; samples are in the raw file's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reattention_eval.evaluators import leval_answers as answers
from reattention_eval.evaluators.leval_opencompass import OPENCOMPASS
from reattention_eval.evaluators.libraries import ROUGE_SCORE, rouge_scores
from reattention_eval.evaluators.rules import TaskRule
from reattention_eval.evaluators.words import english_f1, english_words

_KINDS = ("rouge1", "rouge2", "rougeL")
_F1_TASKS = (
    "financial_qa",
    "legal_contract_qa",
    "multidoc_qa",
    "narrative_qa",
    "natural_question",
    "scientific_qa",
)
_ROUGE_TASKS = (
    "gov_report_summ",
    "meeting_summ",
    "news_summ",
    "paper_assistant",
    "patent_summ",
    "review_summ",
    "tv_show_summ",
)


def exact_match(prediction: str, reference: str) -> float:
    """One question of an exam: 1, 0, or for options without a wrong one but not all, 0.25."""
    expected = " ".join(english_words(reference, lower=False))
    if set(expected) <= set("ABCD"):
        given = " ".join(english_words(prediction, lower=False))
        return 1.0 if given == expected else 0.25 * (set(given) <= set(expected))
    try:
        return float(float(prediction) == float(reference))
    except ValueError:
        dense = (text.lower().replace(" ", "") for text in (reference, prediction))
        return float(next(dense) in next(dense))


def _exam(
    read: Callable[[str, str], str], read_reference: Callable[[str], str] = str
) -> Callable[[Sequence[str], Sequence[str]], dict[str, float]]:
    """The scorer of an exam whose answers are read by `read(prediction, reference)`."""

    def score(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        each = [
            exact_match(read(prediction, reference), read_reference(reference))
            for prediction, reference in zip(predictions, references, strict=True)
        ]
        return {"exact_match": _percent(each)}

    return score


def _topic_retrieval(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The mean of three means: questions for the first, second and third topic, in turn."""
    each = [exact_match(p, r) for p, r in zip(predictions, references, strict=True)]
    names = ("first", "second", "third")
    asked = {name: _percent(each[i::3]) for i, name in enumerate(names) if each[i::3]}
    return {"exact_match": sum(asked.values()) / len(asked), **asked}


def _sci_fi(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """The mean of loyalty (true in the story?) and fact (true in our world?).

    A prediction gives both, as the references do: "True [fact: False]".
    """
    parts: dict[str, list[float]] = {"loyalty": [], "fact": []}
    for prediction, reference in zip(predictions, references, strict=True):
        given, expected = map(answers.loyalty_and_fact, (prediction, reference))
        for part, said, right in zip(parts, given, expected, strict=True):
            parts[part].append(exact_match(answers.judged(said), right))
    means = {part: _percent(each) for part, each in parts.items()}
    return {"exact_match": (means["loyalty"] + means["fact"]) / 2, **means}


def _f1(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    return {
        "f1": _percent([english_f1(*pair) for pair in zip(predictions, references, strict=True)])
    }


def _rouge(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Means of F1; `geometric_mean` of the three is what the official script calls its score."""
    each = [
        rouge_scores(prediction, reference, _KINDS)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    means = {kind: _percent([score[kind].fmeasure for score in each]) for kind in _KINDS}
    return {
        **means,
        "geometric_mean": (means["rouge1"] * means["rouge2"] * means["rougeL"]) ** (1 / 3),
    }


def _percent(each: Sequence[float]) -> float:
    return 100 * sum(each) / len(each)


def _options(several: bool) -> Any:
    return _exam(lambda p, _: answers.chosen_options(p, several), answers.expected_options)


OFFICIAL = {
    "coursera": TaskRule("exact_match", _options(several=True)),
    "gsm100": TaskRule(
        "exact_match", _exam(lambda p, _: answers.final_number(p), answers.final_number)
    ),
    "quality": TaskRule("exact_match", _options(several=False)),
    "topic_retrieval_longchat": TaskRule("exact_match", _topic_retrieval),
    "tpo": TaskRule("exact_match", _options(several=False)),
    "codeU": TaskRule("exact_match", _exam(answers.code_output, answers.code_value)),
    "sci_fi": TaskRule("exact_match", _sci_fi),
    **{task: TaskRule("f1", _f1) for task in _F1_TASKS},
    **{task: TaskRule("rougeL", _rouge, (ROUGE_SCORE,)) for task in _ROUGE_TASKS},
}
RULES = {"official": OFFICIAL, "opencompass": OPENCOMPASS}

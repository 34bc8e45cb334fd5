"""L-Eval's tasks as OpenCompass 0.5.4 scores them: 18 of them, with codeU and sci_fi left out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reattention_eval.evaluators.libraries import ROUGE_SCORE
from reattention_eval.evaluators.opencompass_rules import accuracy, after, first_phrase, rouge
from reattention_eval.evaluators.rules import TaskRule


def first_capital(text: str) -> str:
    """The first capital letter, of any word; "" without one."""
    return next((character for character in text if character.isupper()), "")


def first_options(text: str) -> str:
    """The first run of A-D, of any word."""
    found = re.search("[A-D]+", text)
    return found.group() if found else ""


def stated_number(text: str) -> str:
    """All digits of the first word with one behind "The answer is"; "" without that phrase."""
    parts = text.split("The answer is")
    words = parts[1].split(" ") if len(parts) > 1 else []
    word = next((word for word in words if any(map(str.isdigit, word))), "")
    return "".join(filter(str.isdigit, word))


def _gsm100(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    expected = [reference.replace(",", "") for reference in references]
    return accuracy([stated_number(prediction) for prediction in predictions], expected)


def _quality(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """References read "(B) The text of the option"."""
    return accuracy([first_capital(p) for p in predictions], [r[1] for r in references])


def _topic_retrieval(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """LEvalEMEvaluator: percent of first phrases that hold the reference, whole or its phrase."""
    hits = 0
    for prediction, reference in zip(predictions, references, strict=True):
        phrase = first_phrase(first_phrase(prediction))
        hits += first_phrase(reference) in phrase or reference in phrase
    return {"score": 100 * hits / len(predictions)}


_ROUGE_TASKS = (
    "financial_qa",
    "gov_report_summ",
    "legal_contract_qa",
    "meeting_summ",
    "multidoc_qa",
    "narrative_qa",
    "natural_question",
    "news_summ",
    "paper_assistant",
    "patent_summ",
    "review_summ",
    "scientific_qa",
    "tv_show_summ",
)

OPENCOMPASS = {
    "coursera": TaskRule("accuracy", after(first_options)),
    "gsm100": TaskRule("accuracy", _gsm100),
    "quality": TaskRule("accuracy", _quality),
    "topic_retrieval_longchat": TaskRule("score", _topic_retrieval),
    "tpo": TaskRule("accuracy", after(first_capital)),
    **{task: TaskRule("rouge1", rouge, (ROUGE_SCORE,)) for task in _ROUGE_TASKS},
}

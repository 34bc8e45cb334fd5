"""InfiniteBench's tasks as OpenCompass 0.5.4 scores them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from reattention_eval.evaluators.infinitebench_answers import words_of
from reattention_eval.evaluators.infinitebench_labels import label_of, several, text_and_letter
from reattention_eval.evaluators.libraries import JIEBA, ROUGE_SCORE
from reattention_eval.evaluators.longbench_metrics import chinese_f1
from reattention_eval.evaluators.opencompass_options import first_option
from reattention_eval.evaluators.opencompass_rules import accuracy, first_number, rouge
from reattention_eval.evaluators.rules import TaskRule
from reattention_eval.evaluators.words import english_f1

_Read = Callable[[str], Any]


def _accuracy(read: _Read, label: Callable[[Any], Any]) -> TaskRule:
    """The answer that `read` finds must be written as the label is; a list never matches."""
    return TaskRule(
        "accuracy",
        lambda predictions, references: accuracy(
            [read(p) for p in predictions], [label(r) for r in references]
        ),
    )


def _sum_of(rule: Callable[[str, Any], float], *libraries: str) -> TaskRule:
    def score(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
        samples = zip(predictions, references, strict=True)
        return {"score": 100 * sum(rule(p, label_of(r)) for p, r in samples) / len(predictions)}

    return TaskRule("score", score, libraries)


def _is_spoken_word(prediction: str, label: Any) -> bool:
    return label[0] in [word.upper() for word in words_of(prediction)]


def _leading_values(prediction: str, label: Sequence[Any]) -> float:
    """The number of right values before the first wrong one; not divided by how many there are."""
    given = re.findall("[0-9]+", prediction)
    right = 0
    for value, number in zip(label, given, strict=False):
        if value != int(number):
            break
        right += 1
    return right


def _rouge(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
    return rouge(predictions, [several(reference) for reference in references])


OPENCOMPASS = {
    "passkey": _accuracy(first_number, label_of),
    "number_string": _accuracy(first_number, label_of),
    "kv_retrieval": _sum_of(lambda p, label: label in words_of(p)),
    "longbook_sum_eng": TaskRule("rouge1", _rouge, (ROUGE_SCORE,)),
    "longbook_qa_eng": _sum_of(lambda p, r: max(english_f1(p, a) for a in several(r))),
    "longbook_choice_eng": _accuracy(first_option, lambda r: text_and_letter(r)[1]),
    "longdialogue_qa_eng": _sum_of(_is_spoken_word),
    "longbook_qa_chn": _sum_of(lambda p, r: max(chinese_f1(p, a) for a in several(r)), JIEBA),
    "code_debug": _accuracy(first_option, lambda r: text_and_letter(r)[1]),
    "code_run": _accuracy(first_option, label_of),
    "math_calc": _sum_of(_leading_values),
    "math_find": _accuracy(first_number, label_of),
}

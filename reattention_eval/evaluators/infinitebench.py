"""InfiniteBench's 12 tasks under the official rule and under OpenCompass 0.5.4's.

A reference is the raw row, or of it {"answer": ..., "options": [...]}; the bare answer will do
where nothing is chosen, and [text, letter] for a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reattention_eval.evaluators import infinitebench_answers as answers
from reattention_eval.evaluators.infinitebench_opencompass import OPENCOMPASS
from reattention_eval.evaluators.libraries import ROUGE_SCORE
from reattention_eval.evaluators.rules import TaskRule


def _mean_of(name: str, rule: Callable[[str, Any], float], *libraries: str) -> TaskRule:
    def score(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
        samples = zip(predictions, references, strict=True)
        return {name: 100 * sum(float(rule(p, r)) for p, r in samples) / len(predictions)}

    return TaskRule(name, score, libraries)


OFFICIAL = {
    "passkey": _mean_of("accuracy", answers.is_first_digits),
    "number_string": _mean_of("accuracy", answers.is_first_digits),
    "kv_retrieval": _mean_of("accuracy", answers.is_word),
    "longbook_sum_eng": _mean_of("rougeLsum", answers.rouge_l_sum, ROUGE_SCORE),
    "longbook_qa_eng": _mean_of("f1", answers.best_english_f1),
    "longbook_choice_eng": _mean_of("accuracy", answers.is_chosen_option),
    "longdialogue_qa_eng": _mean_of("accuracy", answers.is_spoken_word),
    "longbook_qa_chn": _mean_of("f1", answers.best_character_f1),
    "code_debug": _mean_of("accuracy", answers.is_named_function),
    "code_run": _mean_of("accuracy", answers.is_last_number),
    "math_calc": _mean_of("accuracy", answers.share_of_leading_values),
    "math_find": _mean_of("accuracy", answers.is_first_number),
}
RULES = {"official": OFFICIAL, "opencompass": OPENCOMPASS}

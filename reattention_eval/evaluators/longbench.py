"""LongBench's 21 tasks under the official rule (its eval.py) and under OpenCompass 0.5.4's.

A reference is the raw row, or of it {"answers": [...], "all_classes": [...]}; without classes the
bare list of answers will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.evaluators import longbench_metrics as metrics
from reattention_eval.evaluators.libraries import JIEBA, RAPIDFUZZ, ROUGE, rouge_l
from reattention_eval.evaluators.longbench_metrics import Metric
from reattention_eval.evaluators.rules import TaskRule
from reattention_eval.evaluators.words import english_f1

# task -> (the figure's name, the function); None where the rule also needs the list of classes
_TASKS: dict[str, tuple[str, Metric | None]] = {
    "narrativeqa": ("f1", english_f1),
    "qasper": ("f1", english_f1),
    "multifieldqa_en": ("f1", english_f1),
    "multifieldqa_zh": ("f1", metrics.chinese_f1),
    "hotpotqa": ("f1", english_f1),
    "2wikimqa": ("f1", english_f1),
    "musique": ("f1", english_f1),
    "dureader": ("rouge_l", metrics.chinese_rouge_l),
    "gov_report": ("rouge_l", rouge_l),
    "qmsum": ("rouge_l", rouge_l),
    "multi_news": ("rouge_l", rouge_l),
    "vcsum": ("rouge_l", metrics.chinese_rouge_l),
    "trec": ("accuracy", None),
    "triviaqa": ("f1", english_f1),
    "samsum": ("rouge_l", rouge_l),
    "lsht": ("accuracy", None),
    "passage_count": ("accuracy", metrics.count_share),
    "passage_retrieval_en": ("accuracy", metrics.paragraph_share),
    "passage_retrieval_zh": ("accuracy", metrics.chinese_paragraph_share),
    "lcc": ("similarity", metrics.code_similarity),
    "repobench-p": ("similarity", metrics.code_similarity),
}
# by function: what it imports under either rule
_LIBRARIES: dict[Metric | None, tuple[str, ...]] = {
    metrics.chinese_f1: (JIEBA,),
    metrics.chinese_rouge_l: (JIEBA, ROUGE),
    rouge_l: (ROUGE,),
}
_FIRST_LINE_TASKS = ("trec", "triviaqa", "samsum", "lsht")


def _answers(reference: Any) -> list[str]:
    answers = reference["answers"] if isinstance(reference, Mapping) else reference
    return [answers] if isinstance(answers, str) else [str(answer) for answer in answers]


def _classes(task: str, reference: Any) -> list[str]:
    classes = reference.get("all_classes") if isinstance(reference, Mapping) else None
    if not classes:
        raise DataError(
            f"longbench/{task} is scored against its list of classes, and the reference has none "
            "in 'all_classes'; give the raw row as the reference."
        )
    return list(classes)


def _each(task: str, prediction: str, reference: Any) -> list[float]:
    """The scores (0..1) of a prediction against each of its references."""
    function = _TASKS[task][1]
    if function is not None:
        return [function(prediction, answer) for answer in _answers(reference)]
    classes = _classes(task, reference)
    return [metrics.class_share(prediction, answer, classes) for answer in _answers(reference)]


def _official(task: str) -> TaskRule:
    """The mean over the samples of the best reference's score."""

    def one(prediction: str, reference: Any) -> float:
        return max(_each(task, prediction, reference), default=0.0)

    return _rule(task, _TASKS[task][0], one, _LIBRARIES.get(_TASKS[task][1], ()))


def _opencompass(task: str) -> TaskRule:
    """As OpenCompass's LongBench*Evaluator; docs/scoring.md says what differs."""
    function = _TASKS[task][1]

    def one(prediction: str, reference: Any) -> float:
        if function is None or task.startswith("passage_"):
            return sum(_each(task, prediction, reference))
        best = 0.0
        for answer in _answers(reference):
            if function is metrics.chinese_rouge_l:
                # cut again for each reference, from what the last cut left
                prediction = metrics.spaced(prediction)
                best = max(best, rouge_l(prediction, metrics.spaced(answer)))
            elif function is metrics.code_similarity:
                prediction = metrics.first_code_line(prediction)
                best = max(best, metrics.code_similarity_levenshtein(prediction, answer))
            else:
                best = max(best, function(prediction, answer))
        return best

    other = (RAPIDFUZZ,) if function is metrics.code_similarity else ()
    return _rule(task, "score", one, _LIBRARIES.get(function, other))


def _rule(
    task: str, name: str, one: Callable[[str, Any], float], libraries: tuple[str, ...]
) -> TaskRule:
    def score(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
        if task in _FIRST_LINE_TASKS:
            predictions = [text.lstrip("\n").split("\n")[0] for text in predictions]
        samples = zip(predictions, references, strict=True)
        return {name: 100 * sum(one(p, r) for p, r in samples) / len(predictions)}

    return TaskRule(name, score, libraries)


RULES = {
    "official": {task: _official(task) for task in _TASKS},
    "opencompass": {task: _opencompass(task) for task in _TASKS},
}

"""LongBench v2 (Bai et al., 2024, arXiv 2412.15204): 503 multiple-choice questions.

Prompts, rule and truncation as in github.com/THUDM/LongBench at 2e00731 (pred.py, result.py); the
data are the hub's data.json, one JSON array. A reference is the raw row, or of it answer,
difficulty and length.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from reattention_eval.benchmarks.base import Task
from reattention_eval.benchmarks.prompt_texts import prompt_texts
from reattention_eval.benchmarks.raw import Ask, Question, RawBenchmark
from reattention_eval.evaluators.rules import TaskRule

_TEXTS = prompt_texts("longbench_v2")["prompts"]
_CHOICES = "ABCD"
_CLASSES = {"difficulty": ("easy", "hard"), "length": ("short", "medium", "long")}
# placeholder -> field, filled one after another as the benchmark does
_PLACES = {
    "$DOC$": "context", "$Q$": "question", **{f"$C_{c}$": f"choice_{c}" for c in _CHOICES},
}  # fmt: skip


def _questions(row: Mapping[str, Any], task: Task, prompts: str) -> Sequence[Question]:
    prompt = _TEXTS[prompts]
    for place, field in _PLACES.items():
        prompt = prompt.replace(place, row[field].strip())
    reference = {key: row[key] for key in ("answer", *_CLASSES)}
    return [Question((Ask(prompt),), reference, row["context"], ("official",))]


def chosen_letter(response: str) -> str | None:
    """The letter behind "The correct answer is", in parentheses or not; asterisks do not count."""
    text = response.replace("*", "")
    for pattern in (r"The correct answer is \(([A-D])\)", r"The correct answer is ([A-D])"):
        if found := re.search(pattern, text):
            return found.group(1)
    return None


def accuracy(predictions: Sequence[str], references: Sequence[Any]) -> dict[str, float]:
    """`accuracy` in percent; `score_easy`, `_hard`, `_short`, `_medium` and `_long` of the
    questions of each class, where there are any."""
    hits = [
        chosen_letter(prediction.strip()) == reference["answer"]
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    figures = {"accuracy": 100 * sum(hits) / len(hits)}
    for field, names in _CLASSES.items():
        for name in names:
            own = [hit for hit, r in zip(hits, references, strict=True) if r[field] == name]
            if own:
                figures[f"score_{name}"] = 100 * sum(own) / len(own)
    return figures


_TASK = Task("multiple_choice", "multiple-choice", max_out_len=128, in_paper=False)
LONGBENCH_V2 = RawBenchmark(
    name="longbench_v2",
    source="Bai et al., 2024, arXiv 2412.15204; github.com/THUDM/LongBench",
    tasks={_TASK.name: _TASK},
    rules={"official": {_TASK.name: TaskRule("accuracy", accuracy)}},
    fields=(*_PLACES.values(), "answer", *_CLASSES),
    read=_questions,
    prompts={name: {"prompt": text} for name, text in _TEXTS.items()},
    places=lambda task: ("data.json",),
)

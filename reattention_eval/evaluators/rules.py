"""What a rule of scoring is: a function, and the figure of it that stands for a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reattention_eval.errors import DataError

# (predictions, references as in the raw file) -> named figures
TaskScorer = Callable[[Sequence[str], Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class TaskRule:
    """One task under one rule: how it is scored, `main`, which figure stands for it, and the
    modules that the scorer imports when it is first called."""

    main: str
    scorer: TaskScorer
    libraries: tuple[str, ...] = ()


def is_blank(reference: Any) -> bool:
    """Whether there is no text in it: every answer would hold it, or none."""
    if isinstance(reference, Mapping):
        reference = list(reference.values())
    if isinstance(reference, (list, tuple)):
        return all(map(is_blank, reference))
    return reference is None or (isinstance(reference, str) and not reference.strip())


def right_answers(reference: Any) -> list[str]:
    """Those that a prediction is searched for: a text is one answer, not its letters.

    Raises:
        DataError: there is none, or one of them is blank, and every prediction holds it.
    """
    answers = [reference] if isinstance(reference, str) else [str(answer) for answer in reference]
    if not answers or any(map(is_blank, answers)):
        raise DataError(
            f"a sample's right answer is {reference!r}, which every prediction holds; mend the "
            "reference, or leave the sample out."
        )
    return answers

"""What a rule of scoring is: a function, and the figure of it that stands for a task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# (predictions, references as in the raw file) -> named figures
TaskScorer = Callable[[Sequence[str], Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class TaskRule:
    """One task under one rule: how it is scored, and `main`, which figure stands for it."""

    main: str
    scorer: TaskScorer

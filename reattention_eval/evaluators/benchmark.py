"""What a benchmark brings to be scored: its tasks and its rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# (task, predictions, references as in the raw file) -> named figures
Scorer = Callable[[str, Sequence[str], Sequence[Any]], dict[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """The tasks of a benchmark and its scorers by the name of the rule; "official" is one."""

    tasks: tuple[str, ...]
    scorers: dict[str, Scorer]

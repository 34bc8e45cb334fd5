"""Where a dataset stands among the tasks of its benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reattention_eval.report.run import Cell


@dataclass(frozen=True)
class Place:
    """Where a dataset stands: its benchmark, prompt length, task and the task's group."""

    benchmark: str
    length: int
    task: str
    group: str

    @property
    def sheet(self) -> tuple[str, int]:
        """The tasks of one benchmark at one length stand together."""
        return self.benchmark, self.length


def places(cells: Sequence[Cell]) -> dict[str, Place]:
    """The place of each dataset of a benchmark with tasks in groups, by its abbreviation."""
    found = {}
    for cell in cells:
        facts = cell.facts
        if all(facts.get(key) for key in ("benchmark", "task", "group", "length")):
            found[cell.dataset] = Place(
                str(facts["benchmark"]),
                int(facts["length"]),
                str(facts["task"]),
                str(facts["group"]),
            )
    return found

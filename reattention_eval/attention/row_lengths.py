"""Which rows a forward carries, and how long each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RowStep:
    """Entry b of a forward: its tokens start..start+count-1 are new tokens of cache row `row`."""

    row: int
    start: int
    count: int


class RowLengths:
    """What the forwards carried, whatever the layers did with it.

    Args:
        selects: whether a cache of so many tokens must be answered by a part of it.

    `plan`: what the forward at hand carries; `tokens`: per row, what all forwards carried;
    `prompts`: per row, the length its prompt will have (RoPE scaling may depend on it).
    """

    def __init__(self, selects: Callable[[int], bool]) -> None:
        self._selects = selects
        self.plan: Sequence[RowStep] = ()
        self.tokens: list[int] = []
        self.prompts: list[int] = []

    def start(self, rows: int) -> None:
        """Empty rows."""
        self.tokens, self.prompts = [0] * rows, [0] * rows

    def whole(self, prompt: int) -> int:
        """The prompt's length if all of it is one view, else 0."""
        return 0 if self._selects(prompt) else prompt

    def plan_prompts(self, plan: Sequence[RowStep]) -> None:
        """A forward that did not come from the engine: what a fresh row gets is its prompt."""
        self.plan = plan
        for step in plan:
            if self.tokens[step.row] == 0:
                self.prompts[step.row] = step.count

    def carry(self, chunk_size: int) -> int:
        """The forward's tokens are there; how many of its chunks had to select."""
        selecting = 0
        for step in self.plan:
            length = self.tokens[step.row]
            self.tokens[step.row] = length + step.count
            for done in range(0, step.count, chunk_size):
                selecting += self._selects(length + min(done + chunk_size, step.count))
        return selecting

    def alike(self, lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Runs of entries [first, last): consecutive rows that carry and hold alike.

        lengths: of the rows of the layer that asks.
        """
        first = 0
        for entry in range(1, len(self.plan) + 1):
            if entry < len(self.plan):
                one, other = self.plan[first], self.plan[entry]
                row = one.row + entry - first
                same = other == RowStep(row, one.start, one.count)
                same = same and self.prompts[one.row] == self.prompts[row]
                if same and lengths[one.row] == lengths[row]:
                    continue
            yield first, entry
            first = entry

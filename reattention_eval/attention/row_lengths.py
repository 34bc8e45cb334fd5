"""Which rows a forward carries, and how long each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from reattention_eval.attention.chunk_groups import chunk_ends
from reattention_eval.attention.policy import LastApart, ViewPolicy


@dataclass(frozen=True)
class RowStep:
    """Entry b of a forward: its tokens start..start+count-1 are new tokens of cache row `row`.

    last: so many of them are a prompt's last ones, whose chunks are apart (`LastApart`).
    """

    row: int
    start: int
    count: int
    last: int = 0


class RowLengths:
    """What the forwards carried, whatever the layers did with it.

    Args:
        policy: whose rules say what must be answered by a part of the cache.

    `plan`: what the forward at hand carries; `tokens`: per row, what all forwards carried;
    `prompts`: per row, the length its prompt will have (RoPE scaling may depend on it);
    `read_until`: per row, up to which token it is given, a prompt or a turn; those behind are
    decoded.
    """

    def __init__(self, policy: Callable[[], ViewPolicy]) -> None:
        self._policy = policy
        self.plan: Sequence[RowStep] = ()
        self.tokens: list[int] = []
        self.prompts: list[int] = []
        self.read_until: list[int] = []

    def start(self, rows: int) -> None:
        """Empty rows."""
        self.tokens = [0] * rows
        self.expect([0] * rows)

    def expect(self, prompts: Sequence[int]) -> None:
        """Each row's prompt, or what it holds with a turn, will have so many tokens."""
        self.prompts, self.read_until = list(prompts), list(prompts)

    def end_reading(self) -> None:
        """What is there is all that was given; what comes is decoded."""
        self.read_until = list(self.tokens)

    def chooses(self, row: int, length: int) -> bool:
        """Whether a row's chunk that ends at `length` must be answered by a part of the cache."""
        policy = self._policy()
        given = policy.reads_whole and length <= self.read_until[row]
        return policy.selects(length) and not given

    def whole(self, prompt: int) -> int:
        """The prompt's length if all of it is at its own positions, else 0."""
        policy = self._policy()
        return 0 if policy.renumbers and policy.selects(prompt) else prompt

    @property
    def reads(self) -> bool:
        """Whether the forward at hand carries tokens of prompts or turns."""
        return any(self.tokens[step.row] < self.read_until[step.row] for step in self.plan)

    @property
    def longest(self) -> int:
        """Tokens that a row holds at most behind the forward at hand."""
        return max(self.tokens[step.row] + step.count for step in self.plan)

    def plan_prompts(self, plan: Sequence[RowStep]) -> None:
        """A forward that did not come from the engine: what a fresh row gets is its prompt, several
        tokens behind it are a turn."""
        self.plan = [self._read(step) for step in plan]

    def _read(self, step: RowStep) -> RowStep:
        held = self.tokens[step.row]
        if held and step.count <= 1:
            return step
        self.prompts[step.row] = self.read_until[step.row] = held + step.count
        return replace(step, last=last_part(self._policy(), step.count, 0 if held else None))

    def chunk_ends(self, step: RowStep) -> list[int]:
        """Where the chunks end that a row's new tokens are answered as."""
        return ends_of_chunks(self._policy(), step.count, step.last)

    def carry(self) -> int:
        """The forward's tokens are there; how many of its chunks had to select."""
        selecting = 0
        for step in self.plan:
            length = self.tokens[step.row]
            self.tokens[step.row] = length + step.count
            ends = self.chunk_ends(step)
            selecting += sum(self.chooses(step.row, length + end) for end in ends)
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
                same = other == replace(one, row=row)
                same = same and self.prompts[one.row] == self.prompts[row]
                same = same and self.read_until[one.row] == self.read_until[row]
                if same and lengths[one.row] == lengths[row]:
                    continue
            yield first, entry
            first = entry


def ends_of_chunks(policy: ViewPolicy, count: int, last: int) -> list[int]:
    """Where the chunks end that `count` new tokens are answered as, the `last` of them apart."""
    apart = policy.last_chunk_size if isinstance(policy, LastApart) else policy.chunk_size
    return chunk_ends(count, policy.chunk_size, last, apart)


def last_part(policy: object, tokens: int, document: int | None) -> int:
    """See `LastApart.last_part`; 0 for a policy that reads a prompt as one."""
    return policy.last_part(tokens, document) if isinstance(policy, LastApart) else 0

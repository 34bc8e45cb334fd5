"""What the last tokens of a row voted for, so that the next one may count it too."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from reattention_eval.cache.row_state import RowState, with_room


@dataclass(frozen=True)
class RecentVotesFactory:
    """Makes memories from which a token finds the votes of the `tokens` before it."""

    tokens: int

    def __call__(self) -> RecentVotes:
        return RecentVotes(self.tokens)


class RecentVotes(RowState):
    """The winners of tokens that voted alone, and what each vote counts.

    All are kept, a few hundred bytes a token, so that a row taken back finds what it had.
    """

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._ends: list[int] = []  # tokens of the row behind each
        self._held: Tensor | None = None  # int32 [capacity, 2, E, V]

    @property
    def nbytes(self) -> int:
        return 0 if self._held is None else self._held.numel() * self._held.element_size()

    def append(self, keys: Tensor, start: int) -> None:
        """Nothing: votes come by `pooled`."""

    def rewind(self, length: int) -> None:
        del self._ends[bisect_right(self._ends, length) :]

    @torch.inference_mode()
    def pooled(self, first: int, winners: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Each token's votes and those of the `tokens` before it, as far back as these voted alone
        without a gap; these are taken in. A vote of m tokens ago counts (tokens + 1 - m) /
        (tokens + 1) of what it did, rounded up.

        Args:
            first: tokens of the row up to the first of C tokens, one behind the other.
            winners: int32 [C, E, V], -1 for none, of E electorates.
            weights: int32 [C, E, V].

        Returns:
            Both as [C, E, V * (tokens + 1)].
        """
        new = torch.stack((winners, weights), 1)  # [C, 2, E, V]
        at = bisect_left(self._ends, first)
        del self._ends[at:]  # asked again
        self._ends += range(first, first + len(new))
        room = max(64, 1 << len(self._ends).bit_length())  # doubles
        self._held = held = with_room(self._held, new, (room, *new.shape[1:]), 0)
        held[at : len(self._ends)] = new
        before = min(at, self._tokens)
        while before and self._ends[at - before] != first - before:
            before -= 1
        block = torch.full_like(held[:1], -1).expand(self._tokens - before, *new.shape[1:])
        block = torch.cat((block, held[at - before : len(self._ends)]))
        pool = block.unfold(0, self._tokens + 1, 1)  # [C, 2, E, V, tokens + 1]
        age = torch.arange(1, self._tokens + 2, dtype=torch.int32, device=pool.device)
        counts = -(-pool[:, 1] * age // (self._tokens + 1))
        return pool[:, 0].flatten(2), counts.flatten(2)

"""What a view method must answer: which cached positions a chunk's queries attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from reattention_eval.cache import RowCache
from reattention_kernels.view import view_rows


@dataclass(frozen=True)
class Selection:
    """A view of global, selected and local tokens, whose size only the device knows.

    spans: int32 [1, W], ascending, counted from the end of the global part, -1 behind the last;
    count: int32 [1], how many are real; the local part is the cache's last `local_size` tokens.
    """

    spans: Tensor
    count: Tensor
    global_size: int
    local_size: int

    def positions(self, length: int) -> Tensor:
        """The same as ascending int64 [n] of a cache of `length` tokens; waits for the device."""
        count = int(self.count[0])
        return view_rows(self.spans[0], count, length, self.global_size, self.local_size)


class ViewPolicy(Protocol):
    """One question per layer and chunk; no knowledge of models, RoPE or attention kernels."""

    @property
    def chunk_size(self) -> int:
        """Tokens whose queries are answered together."""
        ...

    @property
    def renumbers(self) -> bool:
        """False: the view is always the whole cache, so RoPE is applied once, on append."""
        ...

    def view(self, row: RowCache, query: Tensor) -> Tensor | Selection | None:
        """Positions the chunk attends to; the chunk's own keys are already in the cache.

        Args:
            row: un-rotated keys and values of one row, `row.length` tokens.
            query: [H, T, D], the chunk's un-rotated queries: the last T of the row's tokens.

        Returns:
            ascending int64 [n], the last T of them the chunk itself; or a `Selection`, which needs
            no waiting for the device; or None for the whole cache.
        """
        ...

    def selects(self, length: int) -> bool:
        """Whether a cache of `length` tokens must be answered by a part of it."""
        ...

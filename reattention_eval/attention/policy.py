"""What a view method must answer: which cached positions a chunk's queries attend to."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from reattention_eval.cache import RowCache


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

    def view(self, row: RowCache, query: Tensor) -> Tensor | None:
        """Positions the chunk attends to; the chunk's own keys are already in the cache.

        Args:
            row: un-rotated keys and values of one row, `row.length` tokens.
            query: [H, T, D], the chunk's un-rotated queries: the last T of the row's tokens.

        Returns:
            ascending int64 [n], the last T of them the chunk itself; None for the whole cache.
        """
        ...

    def selects(self, length: int) -> bool:
        """Whether a cache of `length` tokens must be answered by a part of it."""
        ...

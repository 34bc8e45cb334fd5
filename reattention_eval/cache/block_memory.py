"""Blocks of a row's past, each represented by those of its keys that the queries behind them score
highest."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import Tensor

from reattention_eval.cache.row_state import RowState, with_room
from reattention_eval.errors import SelectionError


@dataclass(frozen=True)
class BlockFactory:
    """Makes memories of blocks of `size` keys, counted from behind the row's first `first`. A block
    is there when each of its keys has `local` keys behind it; `representatives` of them stand for
    it."""

    first: int
    local: int
    size: int
    representatives: int

    def __call__(self) -> BlockMemory:
        return BlockMemory(self)

    def blocks(self, length: int) -> int:
        """Of a row of `length` tokens."""
        return max(0, length - self.first - self.local) // self.size


class BlockMemory(RowState):
    """See `BlockFactory`. InfLLM (Xiao et al., 2024, arXiv 2402.04617), section 3.2.

    A key's score is the mean of q . k over the `local` queries behind it, un-rotated; where several
    heads read it, over all of their queries. Queries come by `read`, chunk by chunk, of at most
    `local` tokens each. Sums are in float32, or float64 where the keys are.

    A chunk can be taken back, so nothing is summed that could not be told apart again: kept are, at
    the end of each chunk, the sum of all queries up to it, and of each key the part of its score
    that its own chunk gave, beside the whole.
    """

    def __init__(self, shape: BlockFactory) -> None:
        self._shape = shape
        self._capacity = 0
        self._ends = [0]  # tokens behind each chunk
        self._held: dict[str, Tensor] = {}

    @property
    def blocks(self) -> int:
        return self._shape.blocks(self._ends[-1])

    @property
    def nbytes(self) -> int:
        return sum(x.numel() * x.element_size() for x in self._held.values())

    def reserve(self, capacity: int) -> None:
        self._capacity = capacity

    def append(self, keys: Tensor, start: int) -> None:
        """Nothing: keys are taken in with their queries."""

    def rewind(self, length: int) -> None:
        """To the end of a chunk; from another length nothing can be read on."""
        del self._ends[bisect_right(self._ends, length) :]

    @torch.inference_mode()
    def read(self, keys: Tensor, query: Tensor) -> None:
        """Take in a chunk.

        Args:
            keys: [Hkv, n, D], all of the row's, un-rotated.
            query: [H, T, D], of the last T of its tokens.

        Raises:
            SelectionError: queries before the chunk were not read.
        """
        kv_heads, n = keys.shape[:2]
        start, chunk = n - query.shape[1], len(self._ends)
        if self._ends[-1] != start:
            raise _unseen(self._ends[-1], start)
        exact = torch.promote_types(keys.dtype, torch.float32)
        grouped = query.unflatten(0, (kv_heads, -1)).sum(1, dtype=exact)  # [Hkv, T, D]
        sums = grouped.cumsum(1)
        own, scores, of_chunk, read = self._room(keys, n, chunk, exact)
        own[:, start:n] = _products(sums[:, -1:] - sums, keys[:, start:])
        of_chunk[start:n] = chunk
        read[:, chunk] = read[:, chunk - 1] + sums[:, -1]
        first, last = max(self._shape.first, start - self._shape.local), n - self._shape.local
        if last > first:  # keys whose last query is in this chunk
            chunks_between = read[:, chunk - 1, None] - read.index_select(1, of_chunk[first:last])
            within = sums[:, first + self._shape.local - start : n - start]
            behind = chunks_between.to(exact) + within
            scores[:, first:last] = own[:, first:last] + _products(behind, keys[:, first:last])
        held = self.blocks
        self._ends.append(n)
        if self.blocks > held:
            self._represent(keys, scores, held, self.blocks)

    @torch.inference_mode()
    def relevance(self, queries: Tensor, length: int) -> Tensor:
        """q . k of the sum of queries and that of a block's representatives.

        Args:
            queries: [Hkv, D].
            length: tokens up to which blocks are asked for; at least one block is there.

        Returns:
            [Hkv, blocks], in float32 or finer.

        Raises:
            SelectionError: their queries were not read.
        """
        if self._ends[-1] < length:
            raise _unseen(self._ends[-1], length)
        summed = self._held["summed"][:, : self._shape.blocks(length)]
        return (summed @ queries.to(summed.dtype)[..., None])[..., 0]

    def _represent(self, keys: Tensor, scores: Tensor, start: int, stop: int) -> None:
        """Of blocks start..stop - 1; ties: the key at the lower position."""
        size, first = self._shape.size, self._shape.first
        part = slice(first + start * size, first + stop * size)
        best = scores[:, part].unflatten(1, (-1, size)).sort(dim=-1, descending=True, stable=True)
        index = best.indices[..., : self._shape.representatives, None]  # [Hkv, blocks, r, 1]
        chosen = keys[:, part].unflatten(1, (-1, size)).take_along_dim(index, 2)
        room = self._shape.blocks(max(self._capacity, keys.shape[1]))
        summed = self._grown("summed", (keys.shape[0], room, keys.shape[2]), 1, scores)
        summed[:, start:stop] = chosen.sum(2, dtype=scores.dtype)

    def _room(
        self, keys: Tensor, n: int, chunk: int, exact: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Storage for `n` keys and for chunk `chunk`."""
        (kv_heads, _, dim), tokens = keys.shape, max(self._capacity, n)
        like, known = keys.new_empty(0, dtype=exact), "read" in self._held
        own = self._grown("own", (kv_heads, tokens), 1, like)
        scores = self._grown("scores", (kv_heads, tokens), 1, like)
        of_chunk = self._grown("chunk", (tokens,), 0, like.to(torch.int32))
        chunks = max(64, 1 << chunk.bit_length())  # doubles
        read = self._grown("read", (kv_heads, chunks, dim), 1, like.double())
        if not known:
            read[:, 0] = 0
        return own, scores, of_chunk, read

    def _grown(self, name: str, shape: tuple[int, ...], dim: int, like: Tensor) -> Tensor:
        self._held[name] = held = with_room(self._held.get(name), like, shape, dim)
        return held


def _unseen(first: int, stop: int) -> SelectionError:
    return SelectionError(
        "what stands for a row's blocks is found by the queries of all its tokens, and those of "
        f"tokens {first} to {stop} were not seen; read the row from its beginning."
    )


def _products(query: Tensor, keys: Tensor) -> Tensor:
    """Of each key with its query: [Hkv, m, D] both -> [Hkv, m]."""
    return (query * keys.to(query.dtype)).sum(-1)

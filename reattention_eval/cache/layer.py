"""Keys and values of one layer, per batch row, in storage that is written in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from reattention_eval.cache.row_state import Factory, Kept, RowStates, State

GROWTH_TOKENS = 4096
JoinHeads = Callable[[Tensor, int], Tensor]  # (this process's heads, their dim) -> all heads


@dataclass(frozen=True)
class RowCache:
    """One row's part of a layer: views into the storage, not copies.

    key, value: [Hkv, capacity, D], in the order the tokens came; row r of a batch sees only its
    own. Ordinarily they end with the row's last token, and `capacity` is `length`.
    join_heads: set where other processes hold the rest of the layer's heads.
    depth: the layer's place among those that a method answers, from 0, and how many these are.
    device_length: int32 [1], only so many of the tokens exist; set in a step whose length only the
    device knows, which a CUDA graph repeats while the cache grows. int32 [C] for C chunks that are
    answered together: so many exist for each of them.
    """

    key: Tensor
    value: Tensor
    join_heads: JoinHeads | None = None
    device_length: Tensor | None = None
    layer: int = 0
    states: Callable[[Factory[Any]], Any] | None = None
    depth: tuple[int, int] = (0, 1)

    @property
    def capacity(self) -> int:
        """Tokens that key and value have room for."""
        return self.key.shape[1]

    @property
    def length(self) -> int:
        """How many tokens there are; waits for the device where only it knows. Not for several
        chunks, of which each has a length of its own."""
        return self.capacity if self.device_length is None else int(self.device_length)

    def state(self, factory: Factory[State]) -> State:
        """What a method keeps beside this layer's keys of this row, up to date.

        factory: makes it, without arguments (a subclass of `RowState` does); an equal one finds
        the same state again. It is rewound with the cache and counted in its bytes.
        """
        if self.states is None:  # outside a cache: made for this question
            made = Kept(factory())
            made.state.reserve(self.capacity)
            made.catch_up(self.key)
            return made.state  # type: ignore[return-value]
        return self.states(factory)  # type: ignore[no-any-return]

    def all_heads(self, x: Tensor, dim: int) -> Tensor:
        """What was computed for the heads held here -> the same for all heads, in their order."""
        return x if self.join_heads is None else self.join_heads(x, dim)

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value at `positions`: two [Hkv, n, D] copies.

        positions: int64 [n] for all heads, or [Hkv, n] for each KV head its own.
        """
        if positions.ndim == 1:
            return self.key.index_select(1, positions), self.value.index_select(1, positions)
        index = positions[..., None]
        return self.key.take_along_dim(index, 1), self.value.take_along_dim(index, 1)


@dataclass(frozen=True)
class RepeatedStep:
    """Where a decode step that a CUDA graph repeats puts its token: known on the device only.

    capacity: tokens the step may see at most; device_length: int32 [1], the tokens with the new
    one; slot: int64 [1], the new one's position; asked: the states that the step brings up to date.
    """

    capacity: int
    device_length: Tensor
    slot: Tensor
    asked: list[Kept] = field(default_factory=list, compare=False)


class LayerCache:
    """Append-only keys and values of one layer, [B, Hkv, capacity, D], with a length per row.

    `reserve` fixes the capacity once when it is known; otherwise the storage grows by
    GROWTH_TOKENS at a time. What is stored is never concatenated with what arrives.
    """

    def __init__(
        self,
        layer: int = 0,
        join_heads: JoinHeads | None = None,
        depth: tuple[int, int] = (0, 1),
    ) -> None:
        self._layer = layer
        self._depth = depth
        self._join_heads = join_heads
        self._states = RowStates()
        self.repeated: RepeatedStep | None = None
        self.moves = 0  # how often the storage was made anew; alike in processes that share heads
        self.lengths: list[int] = []
        self._capacity = 0
        self._key: Tensor | None = None
        self._value: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of storage held, used or not."""
        held = [part for part in (self._key, self._value) if part is not None]
        return sum(part.numel() * part.element_size() for part in held) + self._states.nbytes

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""
        return self._capacity if self._key is None else self._key.shape[2]

    def reserve(self, rows: int, capacity: int) -> None:
        """Start empty with room for `rows` rows of `capacity` tokens; storage that fits is kept.

        Storage is made here once the first keys have shown its shape, so that what is free
        behind this is free.
        """
        self._states.rewind([0] * rows)
        self._capacity = capacity
        self.lengths = [0] * rows
        held = self._key
        if held is not None and (held.shape[0] != rows or held.shape[2] < capacity):
            like = held.new_empty(0, held.shape[1], 0, held.shape[3])
            self._key = self._value = held = None  # given back before as much is taken again
            self._states.clear()
            self._make(rows, capacity, like)

    def reserve_more(self, capacity: int) -> None:
        """Room for `capacity` tokens a row, keeping what is stored."""
        if self._key is not None and self._key.shape[2] < capacity:
            self._grow(capacity)

    def append(self, row: int, key: Tensor, value: Tensor, rows: int = 1) -> RowCache:
        """Add a chunk [Hkv, T, D] to one row; returns all that the row now holds.

        rows: that many rows, `row` the first, that hold equally many tokens, get a chunk each:
        [rows * Hkv, T, D]; what comes back lies the same way.
        """
        if self.repeated is not None:
            return self._append_repeated(row, key, value, self.repeated)
        start = self.lengths[row]
        stop = start + key.shape[1]
        key, value = (x.unflatten(0, (rows, -1)) for x in (key, value))
        self._make_room(stop, key[0])
        assert self._key is not None and self._value is not None
        self._key[row : row + rows, :, start:stop] = key
        self._value[row : row + rows, :, start:stop] = value
        self.lengths[row : row + rows] = [stop] * rows
        return self._view(row, stop, None, rows)

    def row(self, row: int) -> RowCache:
        """What a row holds now."""
        return self._view(row, self.lengths[row], None)

    def beginning(self, row: int, length: int, ends: Tensor | None = None) -> RowCache:
        """The first `length` tokens of a row; `ends`: int32 [C], as for `RowCache`."""
        return self._view(row, length, None, ends=ends)

    def _view(
        self,
        row: int,
        capacity: int,
        step: RepeatedStep | None,
        rows: int = 1,
        ends: Tensor | None = None,
    ) -> RowCache:
        assert self._key is not None and self._value is not None
        some = slice(row, row + rows)  # rows lie one behind another: no copy is made
        key, value = (x[some, :, :capacity].flatten(0, 1) for x in (self._key, self._value))

        def state(factory: Factory[State]) -> State:
            if step is None:
                return self._states.get(row, factory, key, self.capacity)
            return self._states.get_repeated(
                row, factory, key, step.device_length, self.capacity, step.asked
            )

        length = ends if step is None else step.device_length
        return RowCache(key, value, self._join_heads, length, self._layer, state, self._depth)

    def _append_repeated(
        self, row: int, key: Tensor, value: Tensor, step: RepeatedStep
    ) -> RowCache:
        """One token, at the place that the device knows; `advance` counts it."""
        assert self._key is not None and self._value is not None
        self._key[row].index_copy_(1, step.slot, key)
        self._value[row].index_copy_(1, step.slot, value)
        return self._view(row, step.capacity, step)

    def prepare_repeat(self, row: int) -> None:
        """Bring up to date what a repeated step only adds to."""
        if self._key is not None:
            self._states.catch_up(row, self._key[row, :, : self.lengths[row]])

    def advance(self, row: int, step: RepeatedStep) -> None:
        """A repeated step has added a token."""
        self.lengths[row] += 1
        self._states.advance(row, step.asked)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget everything behind the first lengths[r] tokens of each row."""
        for row, length in enumerate(lengths):
            if not 0 <= length <= self.lengths[row]:
                raise ValueError(
                    f"row {row} holds {self.lengths[row]} tokens and cannot go back to {length}."
                )
        self.lengths = list(lengths)
        self._states.rewind(list(lengths))

    def _make_room(self, length: int, like: Tensor) -> None:
        if self._key is None:
            self._make(len(self.lengths), max(self._capacity, length), like[None])
        elif length > self._key.shape[2]:
            self._grow(length + GROWTH_TOKENS)

    def _make(self, rows: int, capacity: int, like: Tensor) -> None:
        """like: [*, Hkv, *, D]."""
        shape = (rows, like.shape[1], capacity, like.shape[3])
        self._key, self._value = _storage(shape, like), _storage(shape, like)
        self.moves += 1

    def _grow(self, capacity: int) -> None:
        assert self._key is not None and self._value is not None
        self._key = self._grown(self._key, capacity)
        self._value = self._grown(self._value, capacity)
        self._states.reserve(capacity)
        self.moves += 1

    def _grown(self, storage: Tensor, capacity: int) -> Tensor:
        grown = _storage((*storage.shape[:2], capacity, storage.shape[3]), storage)
        used = max(self.lengths)
        grown[:, :, :used] = storage[:, :, :used]
        return grown


def _storage(shape: Sequence[int], like: Tensor) -> Tensor:
    """Unwritten storage that may be written in and outside inference mode alike."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=like.dtype, device=like.device)

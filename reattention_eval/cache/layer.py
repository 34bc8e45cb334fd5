"""Keys and values of one layer, per batch row, in storage that is written in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reattention_eval.cache.alike import Alike
from reattention_eval.cache.device_room import require_room
from reattention_eval.cache.host_keys import HostKeys
from reattention_eval.cache.host_tier import HostTier
from reattention_eval.cache.host_values import HostValues
from reattention_eval.cache.rounding import rounded_capacity
from reattention_eval.cache.row_cache import JoinHeads, RowCache
from reattention_eval.cache.row_state import Factory, Kept, RowStates, State
from reattention_eval.cache.values import DeviceStore
from reattention_eval.errors import ConfigError

GROWTH_TOKENS = 4096


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
    GROWTH_TOKENS at a time, each rounded up (`rounded_capacity`). What is stored is never
    concatenated with what arrives.

    to_come: how many layers from this one on have their storage on its device.
    alike: what all layers of the model keep their common things in.
    tier: values are in host memory, and keys where it says so; None: on the device. Then what
    `append`, `row` and `beginning` give holds until another layer is asked.
    """

    def __init__(
        self,
        layer: int = 0,
        join_heads: JoinHeads | None = None,
        tier: HostTier | None = None,
        depth: tuple[int, int] = (0, 1),
        to_come: int = 1,
        alike: Alike | None = None,
    ) -> None:
        self._layer = layer
        self._to_come = to_come
        self._depth = depth
        self._alike = alike
        self._join_heads = join_heads
        self._states = RowStates()
        self.repeated: RepeatedStep | None = None
        self.moves = 0  # how often the storage was made anew; alike in processes that share heads
        self.lengths: list[int] = []
        self._capacity = 0
        self._like: Tensor | None = None  # [0, Hkv, 0, D]
        self._rows = 0
        self._tier = tier
        self._keys: DeviceStore | HostKeys = DeviceStore()
        self._values: DeviceStore | HostValues = DeviceStore() if tier is None else HostValues(tier)
        self.group_tokens = None if tier is None else tier.group_tokens

    @property
    def nbytes(self) -> int:
        """Bytes of storage held on the device, used or not."""
        return self._keys.nbytes + self._values.nbytes + self._states.nbytes

    @property
    def host_bytes(self) -> int:
        """The same, in host memory."""
        return self._keys.host_bytes + self._values.host_bytes

    @property
    def values_leave(self) -> bool:
        """Whether values are, or will be, in host memory alone."""
        return self._values.leaves

    @property
    def on_tier(self) -> bool:
        """Whether any of it may be in host memory."""
        return self._tier is not None

    @property
    def keys_on_host(self) -> bool:
        return isinstance(self._keys, HostKeys)

    def place_keys(self, on_host: bool) -> None:
        """Where keys are from the next `reserve` on; what is held is forgotten where it changes."""
        if on_host != self.keys_on_host:
            assert self._tier is not None
            self.clear()
            self._keys = HostKeys(self._tier, self._layer) if on_host else DeviceStore()

    @property
    def device(self) -> torch.device | None:
        """None before the first token."""
        return None if self._like is None else self._like.device

    @property
    def dtype(self) -> torch.dtype | None:
        """Of keys and values; None before the first token."""
        return None if self._like is None else self._like.dtype

    def bytes_of(self, rows: int, capacity: int) -> int:
        """Of keys and values of so much, wherever they are; 0 as for `host_bytes_of`."""
        if self._like is None:
            return 0
        _, heads, _, dim = self._like.shape
        return 2 * rows * capacity * heads * dim * self._like.element_size()

    def host_bytes_of(self, rows: int, capacity: int) -> int:
        """That `reserve` with these takes of the host, what is held included; 0 while nobody knows
        the shape of a token."""
        if self._like is None:
            return 0
        stores, room = (self._keys, self._values), rounded_capacity(capacity)
        return sum(store.host_bytes_of(rows, room, self._like) for store in stores)

    def device_bytes_of(self, rows: int, capacity: int) -> int:
        """The same, of the device."""
        if self._like is None:
            return 0
        return self._device_bytes(rows, rounded_capacity(capacity), self._like)

    def _device_bytes(self, rows: int, capacity: int, like: Tensor) -> int:
        stores = self._keys, self._values
        return sum(store.device_bytes_of(rows, capacity, like) for store in stores)

    def clear(self) -> None:
        """Give the storage back; the lengths stay known."""
        self._rows = 0
        self._keys.clear()
        self._values.clear()
        self._states.clear()

    def drop(self, rows: int) -> None:
        """Hold nothing of so many rows, and no storage."""
        self.lengths = [0] * rows
        self.clear()

    @property
    def lost(self) -> bool:
        """Whether storage that held tokens was given back."""
        return not self._rows and any(self.lengths)

    @property
    def room(self) -> tuple[int, int]:
        """Rows that storage is there for, and tokens of each."""
        return self._rows, self._capacity if self._rows else 0

    @property
    def capacity(self) -> int:
        """Tokens a row has room for."""
        return self._capacity

    def reserve(self, rows: int, capacity: int) -> None:
        """Start empty with room for `rows` rows of `capacity` tokens; storage that fits is kept.

        Storage is made here once the first keys have shown its shape, so that what is free
        behind this is free.
        """
        self._states.rewind([0] * rows)
        self.lengths = [0] * rows
        if self._like is None:
            self._capacity = rounded_capacity(capacity)
        elif self._rows != rows or self._capacity < capacity:
            self.clear()  # given back before as much is taken again
            self._make(rows, rounded_capacity(capacity), self._like)
        else:
            for store in (self._keys, self._values):
                store.rewind(self.lengths)

    def reserve_more(self, capacity: int) -> None:
        """Room for `capacity` tokens a row, keeping what is stored."""
        if self._rows and self._capacity < capacity:
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
        self._check_alike(key)
        self._make_room(stop, key)
        self._keys.write(row, start, key)
        self._values.write(row, start, value)
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
        key = self._keys.view(row, rows, capacity)
        own_length = None if step is None else step.device_length
        values = self._values.view(row, rows, capacity, own_length)

        def state(factory: Factory[State]) -> State:
            if step is None:
                return self._states.get(row, factory, key, self.capacity)
            return self._states.get_repeated(
                row, factory, key, step.device_length, self.capacity, step.asked
            )

        length = ends if step is None else step.device_length
        return RowCache(
            key, values, self._join_heads, length, self._layer, state, self._depth, self._alike
        )

    def _append_repeated(
        self, row: int, key: Tensor, value: Tensor, step: RepeatedStep
    ) -> RowCache:
        """One token, at the place that the device knows; `advance` counts it."""
        self._keys.write_repeated(row, step.slot, key)
        self._values.write_repeated(row, step.slot, value)
        return self._view(row, step.capacity, step)

    def prepare_repeat(self, row: int) -> None:
        """Bring up to date what a repeated step only adds to."""
        if self._rows:
            self._states.catch_up(row, self._keys.view(row, 1, self.lengths[row]))
            self._values.prepare_repeat(row, self.lengths[row])

    def advance(self, row: int, step: RepeatedStep) -> None:
        """A repeated step has added a token."""
        self.lengths[row] += 1
        self._values.advance(row)
        self._states.advance(row, step.asked)

    def rewind(self, lengths: Sequence[int]) -> None:
        """Forget everything behind the first lengths[r] tokens of each row."""
        for row, length in enumerate(lengths):
            if not 0 <= length <= self.lengths[row]:
                raise ValueError(
                    f"row {row} holds {self.lengths[row]} tokens and cannot go back to {length}."
                )
        self.lengths = list(lengths)
        for store in (self._keys, self._values):
            store.rewind(lengths)
        self._states.rewind(list(lengths))

    def _check_alike(self, key: Tensor) -> None:
        like = self._like
        if like is not None and (key.dtype, key.device) != (like.dtype, like.device):
            raise ConfigError(
                f"layer {self._layer} holds keys of {like.dtype} on {like.device} and was given "
                f"{key.dtype} on {key.device}: a part of the model was converted inside its `with "
                "attach(...)` block; convert it before."
            )

    def _make_room(self, length: int, like: Tensor) -> None:
        if not self._rows:
            self._make(len(self.lengths), max(self._capacity, rounded_capacity(length)), like)
        elif length > self._capacity:
            self._grow(length + GROWTH_TOKENS)

    def _make(self, rows: int, capacity: int, like: Tensor) -> None:
        """like: [*, Hkv, *, D]."""
        like = like.new_empty(0, like.shape[1], 0, like.shape[3])
        if self._like is None:  # `capacity.require_device` could not know
            needed = self._to_come * self._device_bytes(rows, capacity, like)
            require_room(like.device, needed, rows, capacity)
        self._like = like
        try:
            for store in (self._keys, self._values):
                store.make(rows, capacity, self._like)
        except BaseException:  # none of it, or what came next would find half of it
            self.clear()
            raise
        self._rows, self._capacity = rows, capacity
        self.moves += 1

    def _grow(self, tokens: int) -> None:
        capacity = rounded_capacity(tokens)
        for store in (self._values, self._keys):
            store.grow(capacity, max(self.lengths))
        self._capacity = capacity
        self._states.reserve(capacity)
        self.moves += 1

"""What a method keeps beside the keys of a layer's row, following them as they come and go."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor


class RowState(ABC):
    """One row's part of one layer: block representatives, an index, a running mean.

    Made, filled and taken back by the cache, so it always speaks of the keys that are there.
    """

    @abstractmethod
    def append(self, keys: Tensor, start: int) -> None:
        """Take in keys; keys [Hkv, length, D], un-rotated, are all of the row's, those from
        `start` on are new. Keep no view of them: the storage moves."""

    @abstractmethod
    def rewind(self, length: int) -> None:
        """Forget all but the row's first `length` keys; 0 when a new prompt begins."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes held."""

    def reserve(self, capacity: int) -> None:  # noqa: B027  (most grow as they like)
        """The row has room for `capacity` tokens; said before the first keys and when it grows."""

    def append_repeated(self, keys: Tensor, device_length: Tensor) -> None:
        """As `append`, of one key in a step that a CUDA graph repeats, without waiting.

        keys: [Hkv, capacity, D], of which only the first `device_length` (int32 [1]) exist.
        """
        raise RuntimeError(f"{type(self).__name__} cannot be brought up to date in a CUDA graph")

    def advance(self) -> None:  # noqa: B027  (most count nothing)
        """A graph with this state's `append_repeated` has been repeated once more."""


def with_room(held: Tensor | None, like: Tensor, shape: tuple[int, ...], dim: int = 1) -> Tensor:
    """`held` if it is as long in `dim` as `shape` says; else storage of that shape, of the dtype
    and device of `like`, that begins with what `held` has."""
    if held is not None and held.shape[dim] >= shape[dim]:
        return held
    grown = like.new_empty(shape)
    if held is not None:
        grown.narrow(dim, 0, held.shape[dim]).copy_(held)
    return grown


State = TypeVar("State", bound=RowState)
Factory = Callable[[], State]


@dataclass(eq=False)
class Kept:
    """A state and how many of the row's keys it has taken in."""

    state: RowState
    length: int = 0

    @torch.inference_mode()  # as in a session, so that states may write in place what they hold
    def catch_up(self, keys: Tensor) -> None:
        """keys [Hkv, length, D]."""
        if self.length < keys.shape[1]:
            self.state.append(keys, self.length)
            self.length = keys.shape[1]


class RowStates:
    """All states of a layer, by row and factory."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, Hashable], Kept] = {}

    @property
    def nbytes(self) -> int:
        return sum(kept.state.nbytes for kept in self._kept.values())

    def clear(self) -> None:
        self._kept.clear()

    @torch.inference_mode()
    def reserve(self, capacity: int) -> None:
        for kept in self._kept.values():
            kept.state.reserve(capacity)

    @torch.inference_mode()
    def rewind(self, lengths: list[int]) -> None:
        """Hold nothing of what lies behind the first lengths[r] tokens of a row, nor of others."""
        self._kept = {at: kept for at, kept in self._kept.items() if at[0] < len(lengths)}
        for (row, _), kept in self._kept.items():
            if kept.length > lengths[row]:
                kept.state.rewind(lengths[row])
                kept.length = lengths[row]

    @torch.inference_mode()
    def find(self, row: int, factory: Factory[Any], capacity: int) -> Kept:
        found = self._kept.get((row, factory))
        if found is None:
            found = self._kept[row, factory] = Kept(factory())
            found.state.reserve(capacity)
        return found

    def get(self, row: int, factory: Factory[State], keys: Tensor, capacity: int) -> State:
        """The state of a row with keys [Hkv, length, D], up to date."""
        kept = self.find(row, factory, capacity)
        kept.catch_up(keys)
        return cast("State", kept.state)

    @torch.inference_mode()
    def get_repeated(
        self,
        row: int,
        factory: Factory[State],
        keys: Tensor,
        device_length: Tensor,
        capacity: int,
        asked: list[Kept],
    ) -> State:
        """As `get`, in a step whose length only the device knows; noted in `asked`."""
        kept = self.find(row, factory, capacity)
        if not kept.length:  # asked for the first time, before a capture: waiting is allowed
            kept.catch_up(keys[:, : int(device_length) - 1])
        kept.state.append_repeated(keys, device_length)
        if kept not in asked:
            asked.append(kept)
        return cast("State", kept.state)

    def catch_up(self, row: int, keys: Tensor) -> None:
        """Take in all that a step which adds one key presumes; keys [Hkv, length, D]."""
        for (owner, _), kept in self._kept.items():
            if owner == row:
                kept.catch_up(keys)

    def advance(self, row: int, asked: list[Kept]) -> None:
        """A step that asked for these has added a key to the row."""
        for (owner, _), kept in self._kept.items():
            if owner == row and kept in asked:
                kept.length += 1
                kept.state.advance()

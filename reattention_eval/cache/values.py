"""Keys or values of a layer on its device, as a tensor: what `HostKeys` and `HostValues` equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from reattention_kernels.view import ViewValues


class RowValues(Protocol):
    """The values of one row's first `capacity` tokens, where they are not one tensor."""

    def whole(self) -> Tensor:
        """All of them, on the device: [Hkv, capacity, D]."""
        ...

    def at(self, positions: Tensor) -> Tensor:
        """At `positions`, int64 [n] or [Hkv, n]: a copy [Hkv, n, D]."""
        ...

    def between(self, start: int, stop: int) -> Tensor:
        """[Hkv, stop - start, D], anywhere."""
        ...

    def fetch(
        self, spans: Tensor, count: Tensor, global_size: int, beside: bool = False
    ) -> FetchedValues:
        """Start to bring those of views to the device.

        Args:
            spans: int32 [C, W], counted from global_size; count: int32 [C], how many are real.
            beside: while the current stream goes on with other work.
        """
        ...


class FetchedValues:
    """Values of views that are on their way to the device."""

    def __init__(self, values: Tensor | ViewValues, ready: torch.cuda.Event | None = None) -> None:
        self._values, self._ready = values, ready
        self._device = (values if isinstance(values, Tensor) else values.recent).device

    def wait(self) -> Tensor | ViewValues:
        """The current stream goes on when they are there; the host does not wait. [C, ...], or
        [Hkv, N, D] of all tokens."""
        if self._ready is not None:
            torch.cuda.current_stream(self._device).wait_event(self._ready)
        return self._values


class DeviceStore:
    """[B, Hkv, capacity, D]."""

    host_bytes, leaves = 0, False

    def __init__(self) -> None:
        self._held: Tensor | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._held is None else self._held.numel() * self._held.element_size()

    def host_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """To be taken of the host for so much."""
        return 0

    def device_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """To be taken of the device for so much."""
        return rows * capacity * like.shape[1] * like.shape[3] * like.element_size()

    def clear(self) -> None:
        self._held = None

    def make(self, rows: int, capacity: int, like: Tensor) -> None:
        """like: [*, Hkv, *, D]."""
        self._held = storage((rows, like.shape[1], capacity, like.shape[3]), like)

    def grow(self, capacity: int, used: int) -> None:
        """Room for `capacity` tokens; `used` are there."""
        assert self._held is not None
        self._held = grown(self._held, capacity, used)

    def write(self, row: int, start: int, value: Tensor) -> None:
        """value [R, Hkv, T, D], of rows that hold `start` tokens each."""
        assert self._held is not None
        self._held[row : row + len(value), :, start : start + value.shape[2]] = value

    def write_repeated(self, row: int, slot: Tensor, value: Tensor) -> None:
        """value [Hkv, 1, D], at the place int64 [1] that the device knows."""
        assert self._held is not None
        self._held[row].index_copy_(1, slot, value)

    def prepare_repeat(self, row: int, length: int) -> None:
        """A step is going to be repeated, behind so many tokens."""

    def advance(self, row: int) -> None:
        """It has been."""

    def rewind(self, lengths: Sequence[int]) -> None:
        """Nothing is there behind the first lengths[r] tokens of each row."""

    def view(
        self, row: int, rows: int, capacity: int, device_length: Tensor | None = None
    ) -> Tensor:
        """Of some rows, one behind the other: [R * Hkv, capacity, D], no copy."""
        assert self._held is not None
        return self._held[row : row + rows, :, :capacity].flatten(0, 1)


def storage(shape: Sequence[int], like: Tensor) -> Tensor:
    """Unwritten storage that may be written in and outside inference mode alike."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=like.dtype, device=like.device)


def grown(held: Tensor, capacity: int, used: int) -> Tensor:
    """Storage [B, Hkv, capacity, D] that begins with what `held` has."""
    made = storage((*held.shape[:2], capacity, held.shape[3]), held)
    made[:, :, :used] = held[:, :, :used]
    return made

"""The values that a row's last view brought to the device, so that the next one need not."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_eval.cache.values import storage
from reattention_kernels.values import HeldValues


class LastFetched:
    """Two halves, of which one is the last view's and the other one is written next.

    positions: int32 [2, W], -1 where there is none; values: [2, W, Hkv, D]; slots: int32
    [capacity], where in a half each position was brought to last.
    """

    def __init__(self, counts: Tensor) -> None:
        self._counts = counts
        self._latest = 0
        self.positions: Tensor | None = None
        self.values: Tensor | None = None
        self._slots: Tensor | None = None

    @property
    def nbytes(self) -> int:
        held = [x for x in (self.positions, self.values, self._slots) if x is not None]
        return sum(x.numel() * x.element_size() for x in held)

    def reserve(self, width: int, like: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Positions and values, for views of `width` positions; like: [Hkv, *, D]."""
        held = self.values
        if held is None or self.positions is None or held.shape[1] != width:
            self.values = held = storage((2, width, like.shape[0], like.shape[2]), like)
            with torch.inference_mode(False):
                shape = 2, width
                self.positions = torch.full(shape, -1, dtype=torch.int32, device=like.device)
        if self._slots is None or len(self._slots) < capacity:
            with torch.inference_mode(False):
                # any numbers do: what they say is looked up
                self._slots = torch.zeros(capacity, dtype=torch.int32, device=like.device)
        return self.positions, held

    def forget(self, length: int) -> None:
        """Positions from `length` on are others' now."""
        if self.positions is not None:
            self.positions.masked_fill_(self.positions >= length, -1)

    def turned(self, length: int) -> None:
        """A repeated step has written the half that its length says."""
        self._latest = length % 2

    def repeated(self, device_length: Tensor) -> HeldValues:
        """For a step whose length, which only the device knows, says which half is written."""
        positions, _ = self._halves()
        return self.known(self._halves(), positions)._replace(turn=device_length)

    def known(self, before: tuple[Tensor, Tensor], positions: Tensor | None) -> HeldValues:
        """For a view behind one of such positions and values, whose own positions go there; None:
        nowhere."""
        assert self._slots is not None
        return HeldValues(*before, positions, self._slots, self._counts)

    def latest(self) -> tuple[Tensor, Tensor]:
        """Positions and values of the last view."""
        positions, values = self._halves()
        return positions[self._latest], values[self._latest]

    def turn(self) -> tuple[Tensor, Tensor]:
        """Where the next view's go; they are the last one's from now on."""
        self._latest = 1 - self._latest
        return self.latest()

    def _halves(self) -> tuple[Tensor, Tensor]:
        assert self.positions is not None
        assert self.values is not None
        return self.positions, self.values

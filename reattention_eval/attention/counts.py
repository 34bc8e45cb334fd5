"""A moment of a hook's counters, by the place of a chunk in its forward."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# chunks of a forward that are counted apart; the last place counts all behind it too
PLACES = 64


def _zeros() -> Tensor:
    return torch.zeros(3, PLACES, dtype=torch.int64)


@dataclass(frozen=True)
class Counts:
    """Layer-steps, those that selected, and keys attended; some of the last counted on devices.

    host: int64 [3, PLACES], in that order; on_devices: int64 [PLACES] each, keys attended.
    """

    host: Tensor = field(default_factory=_zeros)
    on_devices: dict[torch.device, Tensor] = field(default_factory=dict)

    @property
    def layer_steps(self) -> int:
        return int(self.host[0].sum())

    @property
    def selected(self) -> int:
        return int(self.host[1].sum())

    @property
    def view_tokens(self) -> int:
        """Waits for the devices."""
        return int(self.host[2].sum()) + sum(int(x.sum()) for x in self.on_devices.values())

    def first(self, chunks: int) -> Counts:
        """Of the first so many chunks of every forward."""
        cut = {on: count[:chunks] for on, count in self.on_devices.items()}
        return Counts(self.host[:, :chunks], cut)

    def minus(self, other: Counts) -> Counts:
        devices = dict(self.on_devices)
        for on, count in other.on_devices.items():
            devices[on] = devices[on] - count if on in devices else -count
        return Counts(self.host - other.host, devices)

    def plus(self, other: Counts) -> Counts:
        """The sum of both, no longer by place."""
        devices = {on: count.sum(0, keepdim=True) for on, count in self.on_devices.items()}
        for on, count in other.on_devices.items():
            devices[on] = devices.get(on, 0) + count.sum(0, keepdim=True)
        return Counts(self.host.sum(1, keepdim=True) + other.host.sum(1, keepdim=True), devices)


class ChunkCounter:
    """Counts on the host, by the place of a chunk in its forward."""

    def __init__(self) -> None:
        self._counted: list[list[int]] = _zeros().tolist()

    def add(self, place: int, steps: int, selected: int = 0, view_tokens: int = 0) -> None:
        place = min(place, PLACES - 1)
        for held, more in zip(self._counted, (steps, selected, view_tokens), strict=True):
            held[place] += more

    @property
    def layer_steps(self) -> int:
        return sum(self._counted[0])

    @property
    def selected(self) -> int:
        return sum(self._counted[1])

    def tensor(self) -> Tensor:
        """As in `Counts.host`."""
        return torch.tensor(self._counted)

    def set(self, host: Tensor) -> None:
        self._counted = host.tolist()

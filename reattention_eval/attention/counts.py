"""A moment of a hook's counters."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Counts:
    """Layer-steps, those that selected, and keys attended; some of these counted on devices."""

    layer_steps: int = 0
    selected: int = 0
    host_view_tokens: int = 0
    device_view_tokens: dict[torch.device, Tensor] = field(default_factory=dict)

    @property
    def view_tokens(self) -> int:
        """Waits for the devices."""
        return self.host_view_tokens + sum(map(int, self.device_view_tokens.values()))

    def plus(self, other: Counts, sign: int = 1) -> Counts:
        devices = dict(self.device_view_tokens)
        for on, count in other.device_view_tokens.items():
            devices[on] = devices.get(on, torch.zeros_like(count)) + sign * count
        return Counts(
            self.layer_steps + sign * other.layer_steps,
            self.selected + sign * other.selected,
            self.host_view_tokens + sign * other.host_view_tokens,
            devices,
        )

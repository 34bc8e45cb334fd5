"""RoPE, one step after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def rotate_naive(x: Tensor, cos: Tensor, sin: Tensor, slot: Tensor | None = None) -> Tensor:
    """Same contract as `reattention_kernels.rotation.rotate`."""
    places = torch.arange(x.shape[1], device=x.device)
    if slot is not None:
        places = places + slot
    low, high = x.chunk(2, -1)
    return x * cos[places] + torch.cat((-high, low), -1) * sin[places]

"""RMSNorm, one step after the other."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_naive(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Same contract as `reattention_kernels.norm.rms_norm`; PyTorch's order of the sum."""
    element = x.to(torch.float32)
    variance = element.pow(2).mean(-1, keepdim=True)
    return weight * (element * torch.rsqrt(variance + eps)).to(x.dtype)

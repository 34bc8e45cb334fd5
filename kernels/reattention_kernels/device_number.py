"""Lengths that stand on the device, for kernels that a captured CUDA graph repeats, and lengths of
each entry of a batch."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def number(n, at=0, less=0):
    """An integer argument, or the one at place `at` behind a pointer argument, `less` of it."""
    if n.dtype.is_ptr():
        return tl.load(n + at) - less
    else:
        return n


def number_step(n: int | Tensor) -> int:
    """Places from one batch entry's number to the next one's; 0 where all entries share one."""
    return 0 if isinstance(n, int) or n.numel() == 1 else n.stride(0)

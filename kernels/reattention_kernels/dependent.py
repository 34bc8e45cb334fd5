"""Kernels of a decode step that start while those before them end (programmatic dependent launch,
Hopper and later). A step's kernels are short, so that without this a tenth of it are the gaps
between them.

Pass 1 of the selection waits for all before it, and then lets the next kernel start
(`await_previous`). Those behind it let the next one start at once (`let_next_start`) and wait where
they first need what the kernel before wrote (`await_written`). Until then they may read what was
there before pass 1 began (queries, cache, tables), and must write nothing: the memory may be
another's still. Every kernel waits, so that what is complete for one is for all behind it.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def await_previous(DEPENDENT: tl.constexpr):
    """The first thing that a kernel does, in every program, which reads nothing before."""
    await_written(DEPENDENT)
    let_next_start(DEPENDENT)


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr):
    """As soon as every program of this kernel has said so, or ended."""
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def await_written(DEPENDENT: tl.constexpr):
    """Until the kernel before has ended, and all that it wrote is to be seen."""
    if DEPENDENT:
        gdc_wait()


@cache
def _hopper(index: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index)[0] >= 9


def dependent(like: Tensor) -> dict[str, Any]:
    """What a launch on `like`'s device is given besides: DEPENDENT, and Triton's own option."""
    if os.environ.get("TRITON_INTERPRET") == "1" or like.is_cpu or not _hopper(device_index(like)):
        return {"DEPENDENT": False}
    return {"DEPENDENT": True, "launch_pdl": True}


def device_index(like: Tensor) -> int:
    return torch.cuda.current_device() if like.device.index is None else like.device.index

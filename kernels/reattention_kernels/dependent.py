"""Kernels of a decode step that start while the one before them ends (programmatic dependent
launch, Hopper and later): each waits for it before it touches memory, and then lets the next one
start. A step's kernels are short, so that without this a tenth of it are the gaps between them.
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
    """The first thing that such a kernel does, in every program."""
    if DEPENDENT:
        gdc_wait()
        gdc_launch_dependents()


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

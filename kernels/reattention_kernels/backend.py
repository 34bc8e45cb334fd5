"""Which form of an operation serves a call, and saying so once when it is not the fast one."""

from __future__ import annotations

import warnings
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def use_triton(tensor: Tensor, refusal: str | None = None) -> bool:
    """Whether the Triton form takes this call: a CUDA tensor, Triton present, nothing refused."""
    if not tensor.is_cuda:
        return False
    if find_triton() is None:
        refusal = "Triton is not installed (pip install triton)"
    if refusal is not None:
        _say_once(refusal)
    return refusal is None


@cache
def find_triton() -> object:
    return find_spec("triton")


@cache
def _say_once(refusal: str) -> None:
    warnings.warn(
        f"a step runs in its slower PyTorch form: {refusal}.", RuntimeWarning, stacklevel=4
    )

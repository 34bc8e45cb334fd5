"""RoPE of whole heads in one kernel, with the bits of transformers' Llama: `rotate`."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import use_triton
from reattention_kernels.rotation.naive import rotate_naive

__all__ = ["rotate", "rotate_naive", "rotation_refusal"]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, slot: Tensor | None = None) -> Tensor:
    """The pairs (i, i + D/2) of a head rotated (RoFormer, arXiv 2104.09864, as `rotate_half` of
    transformers pairs them): both products rounded to x's dtype, then their sum.

    Args:
        x: [H, T, D], D even, of any strides.
        cos, sin: [>= T, D] of x's dtype; token t takes row t.
        slot: int64 [1] on the device, at least 0: token t takes row slot + t instead. Not waited
            for on a GPU.

    Returns:
        [H, T, D], laid out as `torch.empty_like(x)` where the last stride of x is 1.
    """
    if use_triton(x, rotation_refusal(x, cos)):
        from reattention_kernels.rotation.triton import rotate_triton

        with torch.cuda.device_of(x):
            return rotate_triton(x, cos, sin, slot)
    return rotate_naive(x, cos, sin, slot)


def rotation_refusal(x: Tensor, cos: Tensor) -> str | None:
    """Why the Triton form does not serve a call, or None."""
    if x.dtype not in (torch.float16, torch.bfloat16) or cos.dtype != x.dtype:
        return f"a rotation of {x.dtype} by {cos.dtype}"
    if cos.shape[-1] != x.shape[-1] or x.shape[-1] % 2:
        return f"{cos.shape[-1]} rotated dimensions of a head's {x.shape[-1]}"
    return None

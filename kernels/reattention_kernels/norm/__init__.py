"""RMSNorm as transformers' Llama computes it, in one kernel and with the same bits: `rms_norm`."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import TRITON_DTYPES, use_triton
from reattention_kernels.norm.naive import rms_norm_naive

__all__ = ["norm_refusal", "rms_norm", "rms_norm_naive"]

LEAST_DIM = 32  # below it, PyTorch adds a row up with less than a warp


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) in float32, rounded to x's dtype, times weight (RMSNorm,
    arXiv 1910.07467; rounded as `LlamaRMSNorm` of transformers does).

    The squares of a row are added in the order that PyTorch's own mean has on this GPU for as many
    rows; from 16 rows on it is one order. (Another order changes about one 16-bit value of a
    million, in the last place.)

    Args:
        x: [..., D], of any strides.
        weight: [D] of x's dtype.
        eps: added to the mean of the squares.

    Returns:
        [..., D] of x's dtype, laid out as `torch.empty_like(x)`.
    """
    if use_triton(x, norm_refusal(x, weight)):
        from reattention_kernels.norm.triton import rms_norm_triton

        with torch.cuda.device_of(x):
            return rms_norm_triton(x, weight, eps)
    return rms_norm_naive(x, weight, eps)


def norm_refusal(x: Tensor, weight: Tensor) -> str | None:
    """Why the Triton form does not serve a call, or None."""
    if x.dtype != weight.dtype or x.dtype not in TRITON_DTYPES:
        return f"RMSNorm of {x.dtype} with a weight of {weight.dtype}"
    if x.shape[-1] < LEAST_DIM or weight.shape != x.shape[-1:]:
        return f"RMSNorm of {x.shape[-1]} values with a weight of shape {list(weight.shape)}"
    return None

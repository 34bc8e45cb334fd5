"""RoPE of whole heads: a program takes some heads of one token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_HEADS = 32  # of a program


@triton.jit(do_not_specialize=["heads"])
def rotate_kernel(
    x_ptr,
    cos_ptr,
    sin_ptr,
    slot_ptr,
    out_ptr,
    heads,
    stride_xh,
    stride_xt,
    stride_cos,
    stride_sin,
    stride_oh,
    stride_ot,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    HEADS: tl.constexpr,
    SLOT: tl.constexpr,
):
    """Grid (tokens, blocks of heads)."""
    HALF: tl.constexpr = D // 2
    token = tl.program_id(0).to(tl.int64)
    place = token
    if SLOT:
        place += tl.load(slot_ptr)
    head = (tl.program_id(1) * HEADS + tl.arange(0, HEADS)).to(tl.int64)[:, None]
    d = tl.arange(0, HALF_P)[None, :]
    inside = (head < heads) & (d < HALF)
    x_ptr += head * stride_xh + token * stride_xt + d
    low = tl.load(x_ptr, mask=inside, other=0.0).to(tl.float32)
    high = tl.load(x_ptr + HALF, mask=inside, other=0.0).to(tl.float32)
    cos_ptr += place * stride_cos + d
    sin_ptr += place * stride_sin + d
    cos1 = tl.load(cos_ptr, mask=d < HALF, other=0.0).to(tl.float32)
    sin1 = tl.load(sin_ptr, mask=d < HALF, other=0.0).to(tl.float32)
    cos2 = tl.load(cos_ptr + HALF, mask=d < HALF, other=0.0).to(tl.float32)
    sin2 = tl.load(sin_ptr + HALF, mask=d < HALF, other=0.0).to(tl.float32)
    dtype = out_ptr.dtype.element_ty
    out1 = (low * cos1).to(dtype).to(tl.float32) + (-high * sin1).to(dtype).to(tl.float32)
    out2 = (high * cos2).to(dtype).to(tl.float32) + (low * sin2).to(dtype).to(tl.float32)
    out_ptr += head * stride_oh + token * stride_ot + d
    tl.store(out_ptr, out1.to(dtype), mask=inside)
    tl.store(out_ptr + HALF, out2.to(dtype), mask=inside)


def rotate_triton(x: Tensor, cos: Tensor, sin: Tensor, slot: Tensor | None = None) -> Tensor:
    """Same contract as `reattention_kernels.rotation.rotate`."""
    x, cos, sin = (part if part.stride(-1) == 1 else part.contiguous() for part in (x, cos, sin))
    heads, tokens, dim = x.shape
    out = torch.empty_like(x)
    if out.numel() == 0:
        return out
    block = min(MOST_HEADS, triton.next_power_of_2(heads))
    rotate_kernel[(tokens, triton.cdiv(heads, block))](
        x, cos, sin, cos if slot is None else slot, out, heads, _step(x, 0), _step(x, 1),
        _step(cos, 0), _step(sin, 0), _step(out, 0), _step(out, 1),
        D=dim, HALF_P=triton.next_power_of_2(dim // 2), HEADS=block, SLOT=slot is not None,
        num_warps=2, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _step(x: Tensor, dim: int) -> int:
    """The stride; 0 where there is but one place: another number may mean another kernel."""
    return x.stride(dim) if x.shape[dim] > 1 else 0

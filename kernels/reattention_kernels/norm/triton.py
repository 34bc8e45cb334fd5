"""RMSNorm in one kernel that adds in the order of PyTorch's reduction (ATen's Reduce.cuh)."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

THREADS = 512  # of PyTorch's reduction: most of a block
SETTLED = 16  # rows from which on the order stays


@triton.jit(do_not_specialize=["size_1", "size_2"])
def rms_norm_kernel(
    x_ptr,
    weight_ptr,
    out_ptr,
    eps,
    size_1,
    size_2,
    stride_x0,
    stride_x1,
    stride_x2,
    stride_o0,
    stride_o1,
    stride_o2,
    D: tl.constexpr,
    LANES: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    GROUPS: tl.constexpr,
    HALVES: tl.constexpr,
    STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (rows of [size_0, size_1, size_2, D]); see `SumOrder`."""
    row = tl.program_id(0)
    i2 = (row % size_2).to(tl.int64)
    i1 = (row // size_2 % size_1).to(tl.int64)
    i0 = (row // size_2 // size_1).to(tl.int64)
    x_ptr += i0 * stride_x0 + i1 * stride_x1 + i2 * stride_x2
    out_ptr += i0 * stride_o0 + i1 * stride_o1 + i2 * stride_o2
    group = tl.arange(0, GROUPS)[:, None, None]
    lane = tl.arange(0, LANES)[None, :, None]
    four = tl.arange(0, 4)[None, None, :]
    if NEIGHBOURS:
        place = (group * LANES + lane) * 4 + four
    else:
        place = four * (GROUPS * LANES) + group * LANES + lane
    sums = tl.zeros([GROUPS, LANES, 4], tl.float32)
    for step in tl.static_range(STEPS):
        at = place + step * (4 * GROUPS * LANES)
        value = tl.load(x_ptr + at, mask=at < D, other=0.0).to(tl.float32)
        sums = sums + value * value
    even, odd = tl.split(tl.reshape(sums, [GROUPS, LANES, 2, 2]))
    first, third = tl.split(even)
    second, fourth = tl.split(odd)
    total = tl.reshape(((first + second) + third) + fourth, [GROUPS * LANES])
    # groups and then warps, halves upon halves; at last the lanes of a warp
    for k in tl.static_range(1, 10):
        if ((GROUPS * LANES) >> k) >= 32:
            total = tl.sum(tl.reshape(total, [2, (GROUPS * LANES) >> k]), axis=0)
    for k in tl.static_range(1, 6):
        if HALVES:
            total = tl.sum(tl.reshape(total, [2, 32 >> k]), axis=0)
        else:
            total = tl.sum(tl.reshape(total, [32 >> k, 2]), axis=1)
    scale = tl.rsqrt(tl.sum(total, axis=0) * (1.0 / D) + eps)
    dtype = out_ptr.dtype.element_ty
    for start in range(0, D, BLOCK):
        column = start + tl.arange(0, BLOCK)
        element = tl.load(x_ptr + column, mask=column < D, other=0.0).to(tl.float32)
        weight = tl.load(weight_ptr + column, mask=column < D, other=0.0).to(tl.float32)
        normed = (element * scale).to(dtype).to(tl.float32)
        tl.store(out_ptr + column, (weight * normed).to(dtype), mask=column < D)


class Adding(NamedTuple):
    """What differs between versions of PyTorch: whether rows of 128 values and more are loaded by
    four neighbours whenever they are contiguous (earlier: only a single row of more than 128), and
    whether the lanes of a warp are added halves upon halves (earlier: neighbours)."""

    neighbours: bool
    halves: bool


class SumOrder(NamedTuple):
    """How PyTorch adds the D values of each of some rows: every lane of every group keeps four
    sums, of every (groups * lanes)-th value, or of four neighbours; adds these four, then come the
    groups and the lanes."""

    lanes: int
    neighbours: bool
    groups: int
    halves: bool


@cache
def pytorch_adds(device: int) -> Adding:
    """As the installed PyTorch does on a GPU: seen by what vanishes beside a large number."""

    def first(large: int, minus: int, one: int, dim: int) -> bool:
        """Whether `large` and `minus` meet before `large` and `one` do."""
        x = torch.zeros(SETTLED, dim, device=torch.device("cuda", device))
        x[:, large], x[:, minus], x[:, one] = 2.0**24, -(2.0**24), 1.0
        return bool((x.mean(-1) > 0).all())

    return Adding(neighbours=first(0, 1, 32, 256), halves=first(0, 16, 1, 64))


def sum_order(rows: int, dim: int, adding: Adding) -> SumOrder:
    """Of PyTorch 2.x, and the one for 16 rows for all that are more."""
    neighbours = dim >= 128 if adding.neighbours else rows == 1 and dim > 128
    width = min(THREADS, _power_below(dim // 4 if neighbours else dim))
    height = min(_power_below(min(rows, SETTLED)), THREADS // min(width, 32))
    lanes = min(width, THREADS // height)
    each = -(-dim // lanes)
    return SumOrder(lanes, neighbours, height if each >= 16 * height else 1, adding.halves)


def _power_below(n: int) -> int:
    return 1 << (n.bit_length() - 1)


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float, adding: Adding | None = None) -> Tensor:
    """Same contract as `reattention_kernels.norm.rms_norm`, D at least 32.

    adding: by default what PyTorch does on this GPU; the first call waits for the device.
    """
    if adding is None:
        adding = pytorch_adds(x.get_device() if x.is_cuda else torch.cuda.current_device())
    dim = x.shape[-1]
    out = torch.empty_like(x)
    if x.stride(-1) != 1 or out.stride(-1) != 1 or x.ndim > 4:
        rows_of_x = x.reshape(-1, dim).contiguous()
        return out.copy_(rms_norm_triton(rows_of_x, weight, eps, adding).view(x.shape))
    rows = x.numel() // dim
    if rows == 0:
        return out
    lanes, neighbours, groups, halves = sum_order(rows, dim, adding)
    warps = min(8, lanes * groups // 32)
    lead = (1,) * (4 - x.ndim)
    _, size_1, size_2 = *lead, *x.shape[:-1]
    rms_norm_kernel[(rows,)](
        x, weight.contiguous(), out, eps, size_1, size_2, *_strides(x), *_strides(out),
        D=dim, LANES=lanes, NEIGHBOURS=neighbours, GROUPS=groups, HALVES=halves,
        STEPS=triton.cdiv(dim, 4 * lanes * groups),
        BLOCK=min(triton.next_power_of_2(dim), 512 * warps),
        num_warps=warps, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def _strides(x: Tensor) -> tuple[int, ...]:
    """Of the dimensions before the last, three of them; 0 where there is but one place, lest
    another number there means another kernel."""
    own = [s if n > 1 else 0 for s, n in zip(x.stride()[:-1], x.shape[:-1], strict=True)]
    return (*(0,) * (4 - x.ndim), *own)

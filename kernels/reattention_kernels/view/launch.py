"""Launches of `attend_view` and `attend_whole` on CUDA: which kernels, in which shapes."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import Any

import torch
import triton
from torch import Tensor

from reattention_kernels.causal.choice import view_attention
from reattention_kernels.causal.launch import attend_causal_triton, upcast
from reattention_kernels.causal.triton import LOG2E
from reattention_kernels.dependent import dependent
from reattention_kernels.device_number import number_step
from reattention_kernels.view import DECODE_ROWS, SelectedView, ViewValues
from reattention_kernels.view.triton import (
    DECODE_SPLITS,
    DECODE_TILE,
    FEW_HEADS,
    MORE_SPLITS,
    gather_view_kernel,
    rotate_query_kernel,
)
from reattention_kernels.view.triton_decode import decode_view_kernel, join_splits_kernel
from reattention_kernels.view.triton_whole import decode_whole_kernel

Grid = tuple[int, int, int]

WHOLE_TILE = (64, 4, 3)  # keys, warps, stages
WHOLE_PROGRAMS = 256  # two on each of an H100's 132 processors, which their memory allows
MOST_SPLITS = 128


def attend_view_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor | ViewValues,
    view: SelectedView,
    scale: float,
    device_length: Tensor | None = None,
    out: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Same contract as `reattention_kernels.attend_view`; never waits for the host."""
    query, key = _with_rows(query), _with_rows(key)
    if isinstance(value, Tensor):
        value = _with_rows(value)
    positions, counts, cos, sin = (
        x.contiguous() for x in (view.positions, view.counts, view.cos, view.sin)
    )
    view = view._replace(positions=positions, counts=counts, cos=cos, sin=sin)
    if out is None:
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    group = query.shape[1] // key.shape[1]
    step = _decode if group * query.shape[2] <= DECODE_ROWS else _chunk
    n = key.shape[2] if device_length is None else device_length
    return step(query, key, value, view, scale, n, out, counted)


def _with_rows(x: Tensor) -> Tensor:
    """[B, H, N, D] whose last dimension lies without gaps."""
    return x if x.stride(3) == 1 else x.contiguous()


def _value_arguments(value: Tensor | ViewValues) -> tuple[tuple[Any, ...], tuple[Any, ...], int]:
    """What kernels are given of values: pointers, strides and sizes, and SPLIT."""
    if isinstance(value, Tensor):
        return (value, None), (*value.stride()[:3], 0, 0, 0, 0, 0, 1), 0
    recent, first, chosen, halves = value
    entry, head, row = chosen.stride()[:3]
    steps = (0, head, row, entry) if halves else (entry, head, row, 0)
    strides = *recent.stride()[:3], *steps
    size = recent.element_size()
    divides = gcd(16, recent.data_ptr(), chosen.data_ptr(), *(size * step for step in strides))
    return (recent, chosen), (*strides, first, recent.shape[2]), divides


def _chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor | ViewValues,
    view: SelectedView,
    scale: float,
    n: int | Tensor,
    out: Tensor,
    counted: Tensor | None,
) -> Tensor:
    positions, count, cos, sin, global_size, local_size, _ = view
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    capacity = global_size + positions.shape[1] + local_size
    half = triton.next_power_of_2(d // 2)
    k_view = torch.empty(b, kv_heads, capacity, d, dtype=key.dtype, device=key.device)
    v_view = torch.empty_like(k_view)
    sizes = torch.empty(b, dtype=torch.int32, device=key.device)
    values, strides, split = _value_arguments(value)
    rotated = torch.empty(b, h, t, d, dtype=query.dtype, device=query.device)
    gather_view_kernel[(triton.cdiv(capacity, 32), kv_heads, b)](
        key, *values, positions, count, cos, sin, k_view, v_view, sizes,
        counted, counter_step(counted),
        n, number_step(n), capacity, kv_heads, positions.shape[1],
        *key.stride()[:3], *strides,
        GLOBAL=global_size, LOCAL=local_size, D=d, HALF_P=half, BLOCK=32, SPLIT=split,
    )  # fmt: skip
    rotate_query_kernel[(triton.cdiv(t, 32), h, b)](
        query, count, cos, sin, rotated, t, h, *query.stride()[:3],
        FIXED=global_size + local_size, D=d, HALF_P=half, BLOCK=32,
    )  # fmt: skip
    attend = view_attention(rotated) or attend_causal_triton
    return attend(rotated, k_view, v_view, scale, sizes, out, None)


def _decode(
    query: Tensor,
    key: Tensor,
    value: Tensor | ViewValues,
    view: SelectedView,
    scale: float,
    n: int | Tensor,
    out: Tensor,
    counted: Tensor | None,
) -> Tensor:
    positions, count, cos, sin, global_size, local_size, alike = view
    kv_heads = key.shape[1]
    keys, warps, stages = DECODE_TILE
    # not by B: an entry has the same bits alone and among others
    splits = DECODE_SPLITS if kv_heads >= FEW_HEADS else MORE_SPLITS
    values, strides, split = _value_arguments(value)

    def launch(grid: Grid, parts: Tensor, stats: Tensor, layout: dict[str, Any]) -> None:
        decode_view_kernel[grid](
            query, key, *values, positions, count, cos, sin, parts, stats,
            counted, counter_step(counted), scale * LOG2E,
            n, number_step(n), query.shape[2], kv_heads, positions.shape[1],
            *query.stride()[:3], *key.stride()[:3], *strides,
            GLOBAL=global_size, LOCAL=local_size, BN=keys, ALIKE=alike, UPCAST=upcast(),
            SPLIT=split,
            num_warps=warps, num_stages=stages, **layout,
        )  # fmt: skip

    return _joined(query, kv_heads, splits, launch, out)


def attend_whole_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    device_length: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Same contract as `reattention_kernels.view.attend_whole`; never waits for the host."""
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    (b, _, t, d), kv_heads = query.shape, key.shape[1]
    splits = min(MOST_SPLITS, triton.next_power_of_2(max(1, WHOLE_PROGRAMS // (b * kv_heads))))
    n = key.shape[2] if device_length is None else device_length
    keys, warps, stages = WHOLE_TILE
    if query.element_size() * d > 256:  # two stages of a wide head fill the shared memory
        keys, stages = keys // 2, 2

    def launch(grid: Grid, parts: Tensor, stats: Tensor, layout: dict[str, Any]) -> None:
        decode_whole_kernel[grid](
            query, key, value, parts, stats, scale * LOG2E,
            n, number_step(n), t, kv_heads,
            *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
            DP=max(16, triton.next_power_of_2(d)), BN=keys, STAGES=stages, UPCAST=upcast(),
            num_warps=warps, **layout,
        )  # fmt: skip

    return _joined(query, kv_heads, splits, launch, out)


def _joined(
    query: Tensor,
    kv_heads: int,
    splits: int,
    launch: Callable[[Grid, Tensor, Tensor, dict[str, Any]], None],
    out: Tensor | None,
) -> Tensor:
    """What `launch` finds in `splits` parts of the keys, joined: [B, H, T, D]."""
    b, h, t, d = query.shape
    half = max(16, triton.next_power_of_2(d // 2))
    shape = (b, kv_heads, splits, DECODE_ROWS)
    parts = torch.empty(*shape, 2 * half, dtype=torch.float32, device=query.device)
    stats = torch.empty(*shape, 2, dtype=torch.float32, device=query.device)
    if out is None:
        out = torch.empty(b, h, t, d, dtype=query.dtype, device=query.device)
    layout: dict[str, Any] = dict(GROUP=h // kv_heads, D=d, HALF_P=half, ROWS=DECODE_ROWS)
    layout |= dependent(query)
    launch((splits, kv_heads, b), parts, stats, layout)
    join_splits_kernel[(h // kv_heads * t, kv_heads, b)](
        parts, stats, out, t, kv_heads, *out.stride()[:3], SPLITS=splits, **layout
    )
    return out


def counter_step(counted: Tensor | None) -> int:
    """As `number_step`."""
    return 0 if counted is None or counted.numel() == 1 else counted.stride(0)

"""A decode step's view attention: gather, RoPE and attention in one pass, split over the view."""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.causal.triton import dot, softmax_step
from reattention_kernels.dependent import await_previous
from reattention_kernels.device_number import number
from reattention_kernels.view.triton import add_count, rotated_half, value_rows, view_to_cache


@triton.jit(
    do_not_specialize=[
        "counted_ptr",
        "counted_step",
        "n_keys",
        "limit_step",
        "n_queries",
        "first",
        "room",
    ]
)
def decode_view_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    chosen_ptr,
    positions_ptr,
    count_ptr,
    cos_ptr,
    sin_ptr,
    part_ptr,
    stat_ptr,
    counted_ptr,
    counted_step,
    scale,
    n_keys,
    limit_step,
    n_queries,
    n_kv_heads,
    width,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_cb,
    stride_ch,
    stride_cn,
    stride_half,
    first,
    room,
    GROUP: tl.constexpr,
    GLOBAL: tl.constexpr,
    LOCAL: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    ALIKE: tl.constexpr,
    UPCAST: tl.constexpr,
    SPLIT: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (splits, KV heads, batch) -> part [B, Hkv, splits, ROWS, 2, HALF_P] and their stats."""
    await_previous(DEPENDENT)
    HALF: tl.constexpr = D // 2
    split = tl.program_id(0)
    n_splits = tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    count = tl.load(count_ptr + b)
    if split + tl.program_id(1) == 0:
        add_count(counted_ptr, b * counted_step, count)
    end = number(n_keys, b * limit_step)
    size = GLOBAL + count + LOCAL
    blocks = tl.cdiv(tl.cdiv(size, BN), n_splits)
    d = tl.arange(0, HALF_P)
    in_half = (d < HALF)[None, :]

    row = tl.arange(0, ROWS)
    t = row % n_queries
    inside = row < GROUP * n_queries
    q_head = head * GROUP + row // n_queries
    q_at = b * stride_qb + q_head[:, None] * stride_qh + t[:, None] * stride_qt + d[None, :]
    table_at = (size - n_queries + t)[:, None] * D + d[None, :]
    q_mask = inside[:, None] & in_half
    q1, q2 = rotated_half(q_ptr, q_at, q_mask, cos_ptr, sin_ptr, table_at, HALF, ALIKE)
    dtype = q_ptr.dtype.element_ty
    q1 = q1.to(dtype)
    q2 = q2.to(dtype)
    last = size - n_queries + t
    v_ptr += b * stride_vb + head * stride_vh
    if SPLIT:
        chosen_ptr += b * stride_cb + head * stride_ch + (end % 2).to(tl.int64) * stride_half

    m = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc1 = tl.zeros((ROWS, HALF_P), tl.float32)
    acc2 = tl.zeros((ROWS, HALF_P), tl.float32)
    begin = split * blocks * BN
    for start in range(begin, tl.minimum(begin + blocks * BN, size), BN):
        j = start + tl.arange(0, BN)
        real = j < size
        source = view_to_cache(j, positions_ptr + b * width, count, size, end, GLOBAL, LOCAL)
        source = tl.where(real, source, 0)
        mask = real[:, None] & in_half
        key_row = source.to(tl.int64)[:, None]
        k_at = b * stride_kb + head * stride_kh + key_row * stride_kn + d[None, :]
        k1, k2 = rotated_half(
            k_ptr, k_at, mask, cos_ptr, sin_ptr, j[:, None] * D + d[None, :], HALF, ALIKE
        )
        v_at = d[None, :] + value_rows(
            v_ptr, chosen_ptr, j, source, count, first, room, stride_vn, stride_cn, GLOBAL, SPLIT
        )
        v1 = tl.load(v_at, mask=mask, other=0.0)
        v2 = tl.load(v_at + HALF, mask=mask, other=0.0)
        scores = dot(q1, tl.trans(k1.to(dtype)), UPCAST) + dot(q2, tl.trans(k2.to(dtype)), UPCAST)
        visible = (j[None, :] <= last[:, None]) & real[None, :]
        scores = tl.where(visible, scores, -float("inf"))
        p, shrink, m, total = softmax_step(scores, scale, m, total, True)
        acc1 = acc1 * shrink[:, None] + dot(p.to(dtype), v1, UPCAST)
        acc2 = acc2 * shrink[:, None] + dot(p.to(dtype), v2, UPCAST)

    slot = ((b * n_kv_heads + head) * n_splits + split) * ROWS + row
    at = slot[:, None] * (2 * HALF_P) + d[None, :]
    tl.store(part_ptr + at, acc1, mask=inside[:, None])
    tl.store(part_ptr + at + HALF_P, acc2, mask=inside[:, None])
    tl.store(stat_ptr + slot * 2, m, mask=inside)
    tl.store(stat_ptr + slot * 2 + 1, total, mask=inside)


@triton.jit(do_not_specialize=["n_queries"])
def join_splits_kernel(
    part_ptr,
    stat_ptr,
    out_ptr,
    n_queries,
    n_kv_heads,
    stride_ob,
    stride_oh,
    stride_ot,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    ROWS: tl.constexpr,
    SPLITS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (rows, KV heads, batch) -> out [B, H, T, D]."""
    await_previous(DEPENDENT)
    HALF: tl.constexpr = D // 2
    row = tl.program_id(0)
    head = tl.program_id(1)
    b = tl.program_id(2).to(tl.int64)
    s = tl.arange(0, SPLITS)
    d = tl.arange(0, HALF_P)
    slot = ((b * n_kv_heads + head) * SPLITS + s) * ROWS + row
    m = tl.load(stat_ptr + slot * 2)
    total = tl.load(stat_ptr + slot * 2 + 1)
    weight = tl.exp2(m - tl.max(m, 0))
    norm = tl.sum(total * weight, 0)
    at = slot[:, None] * (2 * HALF_P) + d[None, :]
    out1 = tl.sum(tl.load(part_ptr + at) * weight[:, None], 0) / norm
    out2 = tl.sum(tl.load(part_ptr + at + HALF_P) * weight[:, None], 0) / norm
    q_head = (head * GROUP + row // n_queries).to(tl.int64)
    out_at = b * stride_ob + q_head * stride_oh + row % n_queries * stride_ot + d
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + out_at, out1.to(dtype), mask=d < HALF)
    tl.store(out_ptr + out_at + HALF, out2.to(dtype), mask=d < HALF)

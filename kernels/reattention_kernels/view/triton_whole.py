"""A decode step's attention over the whole cache, split over its keys; their number may stand on
the device."""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.causal.triton import dot, softmax_step
from reattention_kernels.dependent import await_previous
from reattention_kernels.device_number import number


@triton.jit(do_not_specialize=["n_keys", "limit_step", "n_queries"])
def decode_whole_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    part_ptr,
    stat_ptr,
    scale,
    n_keys,
    limit_step,
    n_queries,
    n_kv_heads,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    DP: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (splits, KV heads, batch) -> part [B, Hkv, splits, ROWS, 2, HALF_P] and their stats."""
    await_previous(DEPENDENT)
    split = tl.program_id(0)
    n_splits = tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    size = number(n_keys, b * limit_step)
    blocks = tl.cdiv(tl.cdiv(size, BN), n_splits)
    d = tl.arange(0, DP)
    in_head = (d < D)[None, :]

    row = tl.arange(0, ROWS)
    t = row % n_queries
    q_head = head * GROUP + row // n_queries
    q_at = b * stride_qb + q_head[:, None] * stride_qh + t[:, None] * stride_qt + d[None, :]
    inside = (row < GROUP * n_queries)[:, None] & in_head
    q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
    last = size - n_queries + t  # the last key each query sees

    m = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc = tl.zeros((ROWS, DP), tl.float32)
    first = split * blocks * BN
    k_base = k_ptr + b * stride_kb + head * stride_kh + d[None, :]
    v_base = v_ptr + b * stride_vb + head * stride_vh + d[None, :]
    for start in tl.range(first, tl.minimum(first + blocks * BN, size), BN, num_stages=STAGES):
        j = start + tl.arange(0, BN)
        real = (j < size)[:, None] & in_head
        at = j.to(tl.int64)[:, None]
        k = tl.load(k_base + at * stride_kn, mask=real, other=0.0)
        v = tl.load(v_base + at * stride_vn, mask=real, other=0.0)
        scores = dot(q, tl.trans(k), UPCAST)
        scores = tl.where(j[None, :] <= last[:, None], scores, -float("inf"))
        p, shrink, m, total = softmax_step(scores, scale, m, total, True)  # a split it does not see
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UPCAST)

    HALF: tl.constexpr = D // 2
    slot = ((b * n_kv_heads + head) * n_splits + split) * ROWS + row
    place = tl.where(d < HALF, d, d - HALF + HALF_P)
    at = slot[:, None] * (2 * HALF_P) + place[None, :]
    tl.store(part_ptr + at, acc, mask=in_head)
    tl.store(stat_ptr + slot * 2, m)
    tl.store(stat_ptr + slot * 2 + 1, total)

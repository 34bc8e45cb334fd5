"""A decode step's view attention: gather, RoPE and attention in one pass, split over the view."""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.causal.triton import dot, softmax_step
from reattention_kernels.dependent import await_previous, await_written, let_next_start
from reattention_kernels.device_number import number
from reattention_kernels.view.triton import add_count, rotated_half, view_to_cache


@triton.jit
def attend_keys(
    state,
    q1,
    q2,
    k_ptr,
    v_ptr,
    cos_ptr,
    sin_ptr,
    source,
    place,
    real,
    visible,
    scale,
    stride_kn,
    stride_vn,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    ALIKE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """A block of keys, rows `source` of the cache at `place` of the tables, into the running state
    (m, total, acc1, acc2)."""
    HALF: tl.constexpr = D // 2
    m, total, acc1, acc2 = state
    dtype = q1.dtype
    d = tl.arange(0, HALF_P)
    mask = real[:, None] & (d < HALF)[None, :]
    source = tl.where(real, source, 0).to(tl.int64)[:, None]
    v_at = v_ptr + source * stride_vn + d[None, :]
    k_at = source * stride_kn + d[None, :]
    table_at = place[:, None] * D + d[None, :]
    k1, k2 = rotated_half(k_ptr, k_at, mask, cos_ptr, sin_ptr, table_at, HALF, ALIKE)
    v1 = tl.load(v_at, mask=mask, other=0.0)
    v2 = tl.load(v_at + HALF, mask=mask, other=0.0)
    scores = dot(q1, tl.trans(k1.to(dtype)), UPCAST) + dot(q2, tl.trans(k2.to(dtype)), UPCAST)
    scores = tl.where(visible & real[None, :], scores, -float("inf"))
    p, shrink, m, total = softmax_step(scores, scale, m, total, True)
    acc1 = acc1 * shrink[:, None] + dot(p.to(dtype), v1, UPCAST)
    acc2 = acc2 * shrink[:, None] + dot(p.to(dtype), v2, UPCAST)
    return m, total, acc1, acc2


@triton.jit(do_not_specialize=["counted_ptr", "counted_step", "n_keys", "limit_step", "n_queries"])
def decode_view_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
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
    GROUP: tl.constexpr,
    GLOBAL: tl.constexpr,
    LOCAL: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    ROWS: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
    ALIKE: tl.constexpr,
    AHEAD: tl.constexpr,
    UPCAST: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (splits, KV heads, batch) -> part [B, Hkv, splits, ROWS, 2, HALF_P] and their stats.

    AHEAD: the local keys are attended to while the selection goes on. Where it ends nobody knows
    yet, so the view takes the last places that the widest selection would: GLOBAL + width + LOCAL.
    """
    let_next_start(DEPENDENT)
    if not AHEAD:
        await_written(DEPENDENT)
    HALF: tl.constexpr = D // 2
    split = tl.program_id(0)
    n_splits = tl.num_programs(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    end = number(n_keys, b * limit_step)
    top = GLOBAL + width + LOCAL  # the places end here
    if not AHEAD:
        top = GLOBAL + tl.load(count_ptr + b) + LOCAL
    k_ptr += b * stride_kb + head * stride_kh
    v_ptr += b * stride_vb + head * stride_vh
    d = tl.arange(0, HALF_P)

    row = tl.arange(0, ROWS)
    t = row % n_queries
    inside = row < GROUP * n_queries
    q_head = head * GROUP + row // n_queries
    q_at = b * stride_qb + q_head[:, None] * stride_qh + t[:, None] * stride_qt + d[None, :]
    q_mask = inside[:, None] & (d < HALF)[None, :]
    last = top - n_queries + t  # the place of each query
    q1, q2 = rotated_half(
        q_ptr, q_at, q_mask, cos_ptr, sin_ptr, last[:, None] * D + d[None, :], HALF, ALIKE
    )
    dtype = q_ptr.dtype.element_ty
    q1 = q1.to(dtype)
    q2 = q2.to(dtype)

    m = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    acc1 = tl.zeros((ROWS, HALF_P), tl.float32)
    acc2 = tl.zeros((ROWS, HALF_P), tl.float32)
    if AHEAD:
        blocks = tl.cdiv(tl.cdiv(LOCAL, BN), n_splits)
        first = split * blocks * BN
        stop = tl.minimum(first + blocks * BN, LOCAL)
        for start in tl.range(first, stop, BN, num_stages=STAGES):
            i = start + tl.arange(0, BN)
            place = top - LOCAL + i
            m, total, acc1, acc2 = attend_keys(
                (m, total, acc1, acc2), q1, q2, k_ptr, v_ptr, cos_ptr, sin_ptr, end - LOCAL + i,
                place, i < LOCAL, place[None, :] <= last[:, None], scale, stride_kn, stride_vn,
                D, HALF_P, ALIKE, UPCAST,
            )  # fmt: skip
        await_written(DEPENDENT)

    count = tl.load(count_ptr + b)
    if split + tl.program_id(1) == 0:
        add_count(counted_ptr, b * counted_step, count)
    size = GLOBAL + count + LOCAL
    keys = size
    most = size
    if AHEAD:
        keys = GLOBAL + count
        most = GLOBAL + width  # so that positions are read while the count still comes
    blocks = tl.cdiv(tl.cdiv(most, BN), n_splits)
    first = split * blocks * BN
    stop = tl.minimum(first + blocks * BN, most)
    # AHEAD: little is left, so all of it is under way at once: a position, then its key
    for start in tl.range(first, stop, BN, num_stages=2 * STAGES - 1 if AHEAD else STAGES):
        j = start + tl.arange(0, BN)
        source = view_to_cache(j, positions_ptr + b * width, count, width, size, end, GLOBAL, LOCAL)
        place = j + (top - size)
        m, total, acc1, acc2 = attend_keys(
            (m, total, acc1, acc2), q1, q2, k_ptr, v_ptr, cos_ptr, sin_ptr, source,
            place, j < keys, place[None, :] <= last[:, None], scale, stride_kn, stride_vn,
            D, HALF_P, ALIKE, UPCAST,
        )  # fmt: skip

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

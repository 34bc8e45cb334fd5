"""Triton form of `attend_view`: RoPE of a view whose size only the device knows.

A chunk gathers its view once (K rotated, V copied) and attends by `causal`. A decode step gathers
inside the attention, split over the view, since every key is then read by one program only.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.device_number import number

DECODE_TILE = (64, 4, 3)  # keys, warps, stages
DECODE_SPLITS = 16  # programs a KV head
FEW_HEADS, MORE_SPLITS = 8, 32  # with fewer KV heads 16 leave the card idle


@triton.jit
def view_to_cache(j, positions_ptr, count, size, n_keys, GLOBAL: tl.constexpr, LOCAL: tl.constexpr):
    """Cache row of view slot j < size = GLOBAL + count + LOCAL."""
    selected = (j >= GLOBAL) & (j < GLOBAL + count)
    chosen = tl.load(positions_ptr + j - GLOBAL, mask=selected, other=0) + GLOBAL
    last = n_keys - size + j
    return tl.where(j < GLOBAL, j, tl.where(selected, chosen, last))


@triton.jit
def value_rows(
    v_ptr,
    chosen_ptr,
    j,
    source,
    count,
    first,
    room,
    stride_vn,
    stride_cn,
    GLOBAL: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Where the values of view slots j lie, whose cache rows are `source`: pointers [BN, 1].

    SPLIT: selected ones in `chosen`, the others in what is there of the cache: its first tokens,
    and the last ones as a ring. What is split says how many bytes divide each row's address.
    """
    if SPLIT:
        row = tl.where(source < first, source, first + (source - first) % (room - first))
        selected = (j >= GLOBAL) & (j < GLOBAL + count)
        chosen = chosen_ptr + (j - GLOBAL).to(tl.int64) * stride_cn
        rows = tl.where(selected, chosen, v_ptr + row.to(tl.int64) * stride_vn)
        return tl.multiple_of(rows, SPLIT)[:, None]
    else:
        return (v_ptr + source.to(tl.int64) * stride_vn)[:, None]


@triton.jit
def add_count(counted_ptr, at, count):
    """To the counter of selected keys, where there is one; entries may share it."""
    if counted_ptr is not None:
        tl.atomic_add(counted_ptr + at, count.to(tl.int64), sem="relaxed")


@triton.jit
def rotated_half(
    ptr, at, mask, cos_ptr, sin_ptr, table_at, HALF: tl.constexpr, ALIKE: tl.constexpr = False
):
    """Both halves of rows, rotated: x1 c1 - x2 s1, x2 c2 + x1 s2 (float32).

    ALIKE: c2 is c1, and s2 is s1.
    """
    x1 = tl.load(ptr + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    c1 = tl.load(cos_ptr + table_at, mask=mask, other=0.0).to(tl.float32)
    s1 = tl.load(sin_ptr + table_at, mask=mask, other=0.0).to(tl.float32)
    if ALIKE:
        return x1 * c1 - x2 * s1, x2 * c1 + x1 * s1
    c2 = tl.load(cos_ptr + table_at + HALF, mask=mask, other=0.0).to(tl.float32)
    s2 = tl.load(sin_ptr + table_at + HALF, mask=mask, other=0.0).to(tl.float32)
    return x1 * c1 - x2 * s1, x2 * c2 + x1 * s2


@triton.jit(
    do_not_specialize=[
        "counted_ptr",
        "counted_step",
        "n_keys",
        "limit_step",
        "capacity",
        "first",
        "room",
    ]
)
def gather_view_kernel(
    k_ptr,
    v_ptr,
    chosen_ptr,
    positions_ptr,
    count_ptr,
    cos_ptr,
    sin_ptr,
    out_k_ptr,
    out_v_ptr,
    size_ptr,
    counted_ptr,
    counted_step,
    n_keys,
    limit_step,
    capacity,
    n_kv_heads,
    width,
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
    GLOBAL: tl.constexpr,
    LOCAL: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    BLOCK: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """Grid (view blocks, KV heads, batch) -> out_k, out_v [B, Hkv, capacity, D], zero-padded, and
    their sizes [B]."""
    HALF: tl.constexpr = D // 2
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    count = tl.load(count_ptr + b)
    size = GLOBAL + count + LOCAL
    if tl.program_id(0) + tl.program_id(1) == 0:
        tl.store(size_ptr + b, size)
        add_count(counted_ptr, b * counted_step, count)
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, HALF_P)
    real = j < size
    end = number(n_keys, b * limit_step)
    source = view_to_cache(j, positions_ptr + b * width, count, size, end, GLOBAL, LOCAL)
    source = tl.where(real, source, 0)
    mask = real[:, None] & (d < HALF)[None, :]
    k_at = b * stride_kb + head * stride_kh + source.to(tl.int64)[:, None] * stride_kn + d[None, :]
    k1, k2 = rotated_half(k_ptr, k_at, mask, cos_ptr, sin_ptr, j[:, None] * D + d[None, :], HALF)
    v_ptr += b * stride_vb + head * stride_vh
    if SPLIT:
        chosen_ptr += b * stride_cb + head * stride_ch + (end % 2).to(tl.int64) * stride_half
    v_at = d[None, :] + value_rows(
        v_ptr, chosen_ptr, j, source, count, first, room, stride_vn, stride_cn, GLOBAL, SPLIT
    )
    v1 = tl.load(v_at, mask=mask, other=0.0)
    v2 = tl.load(v_at + HALF, mask=mask, other=0.0)
    at = ((b * n_kv_heads + head) * capacity + j[:, None]) * D + d[None, :]
    put = (j < capacity)[:, None] & (d < HALF)[None, :]
    dtype = out_k_ptr.dtype.element_ty
    tl.store(out_k_ptr + at, k1.to(dtype), mask=put)
    tl.store(out_k_ptr + at + HALF, k2.to(dtype), mask=put)
    tl.store(out_v_ptr + at, v1, mask=put)
    tl.store(out_v_ptr + at + HALF, v2, mask=put)


@triton.jit(do_not_specialize=["n_queries"])
def rotate_query_kernel(
    q_ptr,
    count_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    n_queries,
    n_heads,
    stride_qb,
    stride_qh,
    stride_qt,
    FIXED: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (query blocks, heads, batch) -> [B, H, T, D]; queries are the view's last positions."""
    HALF: tl.constexpr = D // 2
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    size = FIXED + tl.load(count_ptr + b)
    t = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, HALF_P)
    mask = (t < n_queries)[:, None] & (d < HALF)[None, :]
    at = b * stride_qb + head * stride_qh + t.to(tl.int64)[:, None] * stride_qt + d[None, :]
    table_at = (size - n_queries + t)[:, None] * D + d[None, :]
    q1, q2 = rotated_half(q_ptr, at, mask, cos_ptr, sin_ptr, table_at, HALF)
    out_at = ((b * n_heads + head) * n_queries + t[:, None]) * D + d[None, :]
    dtype = out_ptr.dtype.element_ty
    tl.store(out_ptr + out_at, q1.to(dtype), mask=mask)
    tl.store(out_ptr + out_at + HALF, q2.to(dtype), mask=mask)

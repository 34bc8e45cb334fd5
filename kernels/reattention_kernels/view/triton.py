"""Triton form of `attend_view`: RoPE and attention over a view whose size only the device knows.

A chunk gathers its view once (K rotated, V copied) and attends flash-style. A decode step gathers
inside the attention, split over the view, since every key is then read by one program only.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from reattention_kernels.device_number import number

DECODE_KEYS = 64
DECODE_SPLITS = 32  # programs a KV head
FEW_HEADS, MORE_SPLITS = 8, 64  # with fewer KV heads (of all rows) 32 leave the card idle
LOG2E = math.log2(math.e)


@triton.jit
def view_to_cache(j, positions_ptr, count, size, n_keys, GLOBAL: tl.constexpr, LOCAL: tl.constexpr):
    """Cache row of view slot j < size = GLOBAL + count + LOCAL."""
    selected = (j >= GLOBAL) & (j < GLOBAL + count)
    chosen = tl.load(positions_ptr + j - GLOBAL, mask=selected, other=0) + GLOBAL
    last = n_keys - size + j
    return tl.where(j < GLOBAL, j, tl.where(selected, chosen, last))


@triton.jit
def rotated_half(ptr, at, mask, cos_ptr, sin_ptr, table_at, HALF: tl.constexpr):
    """Both halves of rows, rotated: x1 c1 - x2 s1, x2 c2 + x1 s2 (float32)."""
    x1 = tl.load(ptr + at, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(ptr + at + HALF, mask=mask, other=0.0).to(tl.float32)
    c1 = tl.load(cos_ptr + table_at, mask=mask, other=0.0).to(tl.float32)
    s1 = tl.load(sin_ptr + table_at, mask=mask, other=0.0).to(tl.float32)
    c2 = tl.load(cos_ptr + table_at + HALF, mask=mask, other=0.0).to(tl.float32)
    s2 = tl.load(sin_ptr + table_at + HALF, mask=mask, other=0.0).to(tl.float32)
    return x1 * c1 - x2 * s1, x2 * c2 + x1 * s2


@triton.jit(do_not_specialize=["n_keys", "capacity"])
def gather_view_kernel(
    k_ptr,
    v_ptr,
    positions_ptr,
    count_ptr,
    cos_ptr,
    sin_ptr,
    out_k_ptr,
    out_v_ptr,
    n_keys,
    capacity,
    n_kv_heads,
    width,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    GLOBAL: tl.constexpr,
    LOCAL: tl.constexpr,
    D: tl.constexpr,
    HALF_P: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (view blocks, KV heads, batch) -> out_k, out_v [B, Hkv, capacity, D], zero-padded."""
    HALF: tl.constexpr = D // 2
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    count = tl.load(count_ptr + b)
    size = GLOBAL + count + LOCAL
    j = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, HALF_P)
    real = j < size
    end = number(n_keys)
    source = view_to_cache(j, positions_ptr + b * width, count, size, end, GLOBAL, LOCAL)
    source = tl.where(real, source, 0).to(tl.int64)[:, None]
    mask = real[:, None] & (d < HALF)[None, :]
    k_at = b * stride_kb + head * stride_kh + source * stride_kn + d[None, :]
    k1, k2 = rotated_half(k_ptr, k_at, mask, cos_ptr, sin_ptr, j[:, None] * D + d[None, :], HALF)
    v_at = v_ptr + b * stride_vb + head * stride_vh + source * stride_vn + d[None, :]
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


@triton.jit
def dot(a, b, UPCAST: tl.constexpr):
    """a @ b in float32; the interpreter multiplies the bits of bfloat16, hence UPCAST."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
def softmax_step(scores, scale, m, total, EMPTY: tl.constexpr):
    """A block of scores into a running softmax (base 2; scale includes log2 e): weights, shrink, m,
    total.

    EMPTY: a row may have seen no key yet.
    """
    m_new = tl.maximum(m, tl.max(scores, 1) * scale)
    zero = m_new
    if EMPTY:
        zero = tl.where(m_new == -float("inf"), 0.0, m_new)
    p = tl.exp2(scores * scale - zero[:, None])
    shrink = tl.exp2(m - zero)
    return p, shrink, m_new, total * shrink + tl.sum(p, 1)


@triton.jit(do_not_specialize=["n_queries", "capacity"])
def view_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    count_ptr,
    out_ptr,
    scale,
    n_queries,
    capacity,
    n_heads,
    GROUP: tl.constexpr,
    FIXED: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (query tiles, heads, batch); q, out [B, H, T, D]; k, v [B, Hkv, capacity, D]."""
    # the last tile sees most keys: start it first
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1)
    b = tl.program_id(2)
    size = FIXED + tl.load(count_ptr + b)
    t = tile * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    at = ((b * n_heads + head).to(tl.int64) * n_queries + t[:, None]) * D + d[None, :]
    inside = (t < n_queries)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + at, mask=inside, other=0.0)
    base = (b * (n_heads // GROUP) + head // GROUP).to(tl.int64) * capacity * D
    last = size - n_queries + t  # the last key each query sees
    m = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    unmasked = (size - n_queries + tile * BM + 1) // BN * BN
    stop = tl.minimum(size, size - n_queries + tile * BM + BM)
    for start in tl.range(0, unmasked, BN, num_stages=STAGES):
        j = start + tl.arange(0, BN)
        kv_at = base + j[:, None] * D + d[None, :]
        if D < DP:
            k = tl.load(k_ptr + kv_at, mask=(d < D)[None, :], other=0.0)
            v = tl.load(v_ptr + kv_at, mask=(d < D)[None, :], other=0.0)
        else:
            k = tl.load(k_ptr + kv_at)
            v = tl.load(v_ptr + kv_at)
        p, shrink, m, total = softmax_step(dot(q, tl.trans(k), UPCAST), scale, m, total, False)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UPCAST)
    for start in tl.range(unmasked, stop, BN, num_stages=1):
        j = start + tl.arange(0, BN)
        kv_at = base + j[:, None] * D + d[None, :]
        real = (j < size)[:, None] & (d < D)[None, :]
        k = tl.load(k_ptr + kv_at, mask=real, other=0.0)
        v = tl.load(v_ptr + kv_at, mask=real, other=0.0)
        scores = dot(q, tl.trans(k), UPCAST)
        scores = tl.where(j[None, :] <= last[:, None], scores, -float("inf"))
        # every query sees its first block of keys
        p, shrink, m, total = softmax_step(scores, scale, m, total, False)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UPCAST)
    tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=inside)

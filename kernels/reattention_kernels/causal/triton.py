"""Triton form of `attend_causal`: flash attention (Dao, 2023, arXiv 2307.08691) whose key limits
may stand on the device."""

from __future__ import annotations

import math

import triton
import triton.language as tl

LOG2E = math.log2(math.e)


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


@triton.jit(do_not_specialize=["n_queries", "n_keys", "limit_step"])
def causal_attention_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    limit_ptr,
    out_ptr,
    scale,
    n_queries,
    n_keys,
    limit_step,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    stride_vb,
    stride_vh,
    stride_vn,
    stride_ob,
    stride_oh,
    stride_ot,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (query tiles, heads, batch); q, out [B, H, T, D]; k, v [B, Hkv, N, D]; limit int32,
    `limit_step` apart from entry to entry, or None."""
    # the last tile sees most keys: start it first
    tile = tl.num_programs(0) - 1 - tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    b = tl.program_id(2).to(tl.int64)
    size = n_keys
    if limit_ptr is not None:
        size = tl.load(limit_ptr + b * limit_step)
    t = tile * BM + tl.arange(0, BM)
    d = tl.arange(0, DP)
    q_at = b * stride_qb + head * stride_qh + t.to(tl.int64)[:, None] * stride_qt + d[None, :]
    inside = (t < n_queries)[:, None] & (d < D)[None, :]
    q = tl.load(q_ptr + q_at, mask=inside, other=0.0)
    k_base = k_ptr + b * stride_kb + head // GROUP * stride_kh + d[None, :]
    v_base = v_ptr + b * stride_vb + head // GROUP * stride_vh + d[None, :]
    last = size - n_queries + t  # the last key each query sees
    m = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, DP), tl.float32)
    unmasked = (size - n_queries + tile * BM + 1) // BN * BN
    stop = tl.minimum(size, size - n_queries + tile * BM + BM)
    for start in tl.range(0, unmasked, BN, num_stages=STAGES):
        j = (start + tl.arange(0, BN)).to(tl.int64)[:, None]
        if D < DP:
            k = tl.load(k_base + j * stride_kn, mask=(d < D)[None, :], other=0.0)
            v = tl.load(v_base + j * stride_vn, mask=(d < D)[None, :], other=0.0)
        else:
            k = tl.load(k_base + j * stride_kn)
            v = tl.load(v_base + j * stride_vn)
        p, shrink, m, total = softmax_step(dot(q, tl.trans(k), UPCAST), scale, m, total, False)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UPCAST)
    for start in tl.range(unmasked, stop, BN, num_stages=1):
        j = start + tl.arange(0, BN)
        at = j.to(tl.int64)[:, None]
        real = (j < size)[:, None] & (d < D)[None, :]
        k = tl.load(k_base + at * stride_kn, mask=real, other=0.0)
        v = tl.load(v_base + at * stride_vn, mask=real, other=0.0)
        scores = dot(q, tl.trans(k), UPCAST)
        scores = tl.where(j[None, :] <= last[:, None], scores, -float("inf"))
        # every query sees its first block of keys
        p, shrink, m, total = softmax_step(scores, scale, m, total, False)
        acc = acc * shrink[:, None] + dot(p.to(v.dtype), v, UPCAST)
    out_at = b * stride_ob + head * stride_oh + t.to(tl.int64)[:, None] * stride_ot + d[None, :]
    tl.store(out_ptr + out_at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_queries"])
def join_parts_kernel(
    a_ptr,
    a_log_ptr,
    b_ptr,
    b_log_ptr,
    out_ptr,
    n_queries,
    n_heads,
    stride_ab,
    stride_ah,
    stride_at,
    stride_bb,
    stride_bh,
    stride_bt,
    stride_ob,
    stride_oh,
    stride_ot,
    D: tl.constexpr,
    DP: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Grid (query blocks, heads, batch): two answers over parts of the keys, joined by the natural
    logarithms of their sums, [B, H, T] contiguous."""
    head = tl.program_id(1).to(tl.int64)
    entry = tl.program_id(2).to(tl.int64)
    t = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    d = tl.arange(0, DP)[None, :]
    inside = (t < n_queries)[:, None] & (d < D)
    slot = (entry * n_heads + head) * n_queries + t
    log_a = tl.load(a_log_ptr + slot, mask=t < n_queries, other=0.0)
    log_b = tl.load(b_log_ptr + slot, mask=t < n_queries, other=0.0)
    share = 1.0 / (1.0 + tl.exp(tl.minimum(log_b - log_a, 80.0)))  # of a, without an overflow
    a_at = entry * stride_ab + head * stride_ah + t[:, None] * stride_at + d
    b_at = entry * stride_bb + head * stride_bh + t[:, None] * stride_bt + d
    out_at = entry * stride_ob + head * stride_oh + t[:, None] * stride_ot + d
    a = tl.load(a_ptr + a_at, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + b_at, mask=inside, other=0.0).to(tl.float32)
    joined = a * share[:, None] + b * (1.0 - share)[:, None]
    tl.store(out_ptr + out_at, joined.to(out_ptr.dtype.element_ty), mask=inside)

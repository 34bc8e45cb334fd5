"""Pass 2 of the exact top-k: score the keys of a row's best blocks, keep the k best.

A candidate block is an int64 as pass 1 packs it: its maximum above, ID_TOP - id below. Only blocks
whose maximum reaches the k-th largest block maximum can hold a key of the top-k: without ties that
is k blocks, and the few rows with ties take more rounds.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.dependent import await_previous
from reattention_kernels.device_number import number
from reattention_kernels.topk_keys.triton_prefill import (
    INT64_MIN,
    entry_of,
    ordered_bits,
    ordered_value,
)

# Pass 1 and pass 2 add the same float32 products in different orders, so a block whose maximum
# lies this close (relative) below the k-th is rescored as well.
MARGIN = tl.constexpr(2.0**-16)


@triton.jit
def pack(value, ident):
    """float32 value, int32 id -> int64 that orders by value, then by lower id."""
    return (ordered_bits(value).to(tl.int64) << 32) | (0x7FFFFFFF - ident).to(tl.int64)


@triton.jit
def packed_id(entry):
    return 0x7FFFFFFF - (entry & 0xFFFFFFFF).to(tl.int32)


@triton.jit
def packed_value(entry):
    return ordered_value((entry >> 32).to(tl.int32))


@triton.jit
def floor_below(entry):
    """Block maxima under this cannot hold a key of the top k, `entry` being the k-th block."""
    value = packed_value(entry)
    return tl.where(entry == INT64_MIN, -float("inf"), value - tl.abs(value) * MARGIN)


@triton.jit
def key_offsets(e, block, BLOCK: tl.constexpr, LANES: tl.constexpr):
    """Position of element e of a block."""
    if LANES == 1:
        return block * BLOCK + e
    else:
        return (block // 4) * (4 * BLOCK) + 8 * (e // 2) + 2 * (block % 4) + e % 2


@triton.jit
def merge_best(best, x, K: tl.constexpr, KP: tl.constexpr):
    """The K largest of best [KP] and x, descending."""
    slot = tl.arange(0, KP)
    out = tl.full((KP,), INT64_MIN, tl.int64)
    for j in tl.static_range(K):
        m = tl.maximum(tl.max(x, 0), tl.max(best, 0))
        x = tl.where(x == m, INT64_MIN, x)
        best = tl.where(best == m, INT64_MIN, best)
        out = tl.where(slot == j, m, out)
    return out


@triton.jit
def take_blocks(cand, CHUNK: tl.constexpr):
    """The CHUNK best candidates, descending: what is left, and their entries."""
    slot = tl.arange(0, CHUNK)
    taken = tl.full((CHUNK,), INT64_MIN, tl.int64)
    for j in tl.static_range(CHUNK):
        m = tl.max(cand, 0)
        cand = tl.where(cand == m, INT64_MIN, cand)
        taken = tl.where(slot == j, m, taken)
    return cand, taken


@triton.jit
def block_ids(entries):
    """Their ids, -1 for no block."""
    return tl.where(entries == INT64_MIN, -1, packed_id(entries))


@triton.jit
def score_blocks(
    q,
    base_k,
    blocks,
    n_keys,
    stride_kn,
    D: tl.constexpr,
    DP: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    CHUNK: tl.constexpr,
    ONE_PER_BLOCK: tl.constexpr,
):
    """Packed (score, position) of every key of the blocks, or of the best one of each."""
    e = tl.arange(0, BLOCK)
    d = tl.arange(0, DP)
    pos = key_offsets(e[None, :], blocks[:, None], BLOCK, LANES)
    inside = tl.broadcast_to((blocks[:, None] >= 0) & (pos < n_keys), (CHUNK, BLOCK))
    pos = tl.reshape(pos, (CHUNK * BLOCK,))
    inside = tl.reshape(inside, (CHUNK * BLOCK,))
    at = base_k + pos[:, None].to(tl.int64) * stride_kn + d[None, :]
    keys = tl.load(at, mask=inside[:, None] & (d[None, :] < D), other=0.0)
    scores = tl.sum(keys.to(tl.float32) * q[None, :], 1)
    x = tl.where(inside, pack(scores, pos), INT64_MIN)
    if ONE_PER_BLOCK:
        x = tl.max(tl.reshape(x, (CHUNK, BLOCK)), 1)
    return x


@triton.jit
def store_best(out_ptr, best, K: tl.constexpr, KP: tl.constexpr):
    slot = tl.arange(0, KP)
    found = tl.where(best == INT64_MIN, -1, packed_id(best))
    tl.store(out_ptr + slot, found, mask=slot < K)


@triton.jit(
    do_not_specialize=["n_queries", "n_keys", "n_keys_step", "n_less", "n_kv_heads", "n_cand"]
)
def rescore_kernel(
    q_ptr,
    k_ptr,
    cand_ptr,
    out_ptr,
    rows_ptr,
    n_some_ptr,
    n_queries,
    n_keys,
    n_keys_step,
    n_less,
    n_kv_heads,
    n_cand,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    SOME: tl.constexpr,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    BLOCK: tl.constexpr,
    LANES: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    CP: tl.constexpr,
    CHUNK: tl.constexpr,
    ONE_PER_BLOCK: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (queries * GROUP, KV heads * batch); cand [B*Hkv, GROUP*T, n_cand] -> out [B, H, T, K].

    n_keys, SOME: as in best_blocks_kernel; cand is in the list's order.
    """
    await_previous(DEPENDENT)
    base_b, base_h = entry_of(tl.program_id(1), tl.num_programs(1), n_kv_heads)
    pair = base_b * n_kv_heads + base_h
    n_keys = number(n_keys, base_b * n_keys_step, n_less)
    # neighbours in the grid share a query position: their heads like the same keys (L2)
    t = tl.program_id(0) // GROUP
    g = tl.program_id(0) % GROUP
    slot = g * n_queries + t
    if SOME:
        slot = tl.program_id(0)
        if slot >= tl.load(n_some_ptr + pair):
            return
        row = tl.load(rows_ptr + pair * GROUP * n_queries + slot)
        g = row // n_queries
        t = row % n_queries
    base_b = base_b.to(tl.int64)
    head = base_h * GROUP + g
    d = tl.arange(0, DP)
    q_at = q_ptr + base_b * stride_qb + head.to(tl.int64) * stride_qh + t.to(tl.int64) * stride_qt
    q = tl.load(q_at + d, mask=d < D, other=0.0).to(tl.float32)

    c = tl.arange(0, CP)
    at = (pair.to(tl.int64) * GROUP * n_queries + slot) * n_cand + c
    cand = tl.load(cand_ptr + at, mask=c < n_cand, other=INT64_MIN)
    # a block without keys: the plain form scores those past the end -inf
    cand = tl.where(packed_value(cand) > -float("inf"), cand, INT64_MIN)
    best = tl.full((KP,), INT64_MIN, tl.int64)
    base_k = k_ptr + base_b * stride_kb + base_h.to(tl.int64) * stride_kh
    ahead = tl.max(cand, 0)
    floor = -float("inf")
    taken = 0
    while (ahead != INT64_MIN) & (packed_value(ahead) >= floor):
        cand, some = take_blocks(cand, CHUNK)
        x = score_blocks(
            q, base_k, block_ids(some), n_keys, stride_kn, D, DP, BLOCK, LANES, CHUNK, ONE_PER_BLOCK
        )
        best = merge_best(best, x, K, KP)
        if (taken < K) & (taken + CHUNK >= K):
            kth = tl.max(tl.where(taken + tl.arange(0, CHUNK) == K - 1, some, INT64_MIN), 0)
            floor = floor_below(kth)
        taken += CHUNK
        ahead = tl.max(cand, 0)
    out_at = (base_b * n_kv_heads * GROUP + head) * n_queries + t
    store_best(out_ptr + out_at * K, best, K, KP)

"""Pass 1 of the exact top-k: per row the best key *blocks*, by block maximum.

Block-max theorem: the k best keys of a row lie inside the k blocks with the largest maxima. So
the inner loop needs one `max` per score and no index bookkeeping. The query heads of one KV head
are packed with the chunk's queries into rows, so a key tile is read once per KV head.

A tile of BN keys is cut into LANES blocks. With LANES = 4 block c holds the keys n of the tile with
(n % 8) // 2 == c: exactly the columns one thread of a tensor-core accumulator owns, so the block
maximum needs no exchange between threads. Each (row, lane) keeps its own k best blocks, first
come first on ties; since the tiles of a lane are in key order, a lane's list holds the lane's true
top-k, ties included. `triton_rescore` merges the lanes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.dependent import await_previous
from reattention_kernels.device_number import number

INT64_MIN = tl.constexpr(-(2**63))
ID_TOP = tl.constexpr(0x7FFFFFFF)


@triton.jit
def ordered_bits(x):
    """float32 -> int32 that compares the same way (-0.0 is made +0.0 first)."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def ordered_value(bits):
    """The inverse of ordered_bits."""
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def lane_max(scores, BM: tl.constexpr, BN: tl.constexpr, LANES: tl.constexpr):
    """[BM, BN] -> [BM, LANES] ([BM] for one lane), the maximum of each block of the tile."""
    if LANES == 1:
        return tl.max(scores, 1)
    else:
        cut = tl.reshape(scores, (BM, BN // 8, 4, 2))
        return tl.max(tl.max(cut, 3), 1)


@triton.jit
def insert(
    state,
    value,
    ident,
    K: tl.constexpr,
    ASM: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
):
    """Insert a block into each (row, lane) list: K packed entries, and the least of use."""
    if ASM is None:
        x = (ordered_bits(value).to(tl.int64) << 32) | (0x7FFFFFFF - ident).to(tl.int64)
        out = ()
        for j in tl.static_range(K):
            out = out + (tl.maximum(state[j], x),)  # type: ignore[assignment]
            x = tl.minimum(state[j], x)
        return out + (state[K],)
    else:
        return tl.inline_asm_elementwise(
            ASM,
            CONSTRAINTS,
            state + (value, ident),
            dtype=(tl.int64,) * K + (tl.float32,),
            is_pure=True,
            pack=1,
        )


@triton.jit
def score_tile(
    q,
    k_desc,
    k_ptr,
    base_b,
    base_h,
    tile,
    n_keys,
    stride_kb,
    stride_kh,
    stride_kn,
    BN: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    TMA: tl.constexpr,
    MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """[BM, BN] scores of one key tile; keys past the end get the least value."""
    start = tile * BN
    if TMA:
        # entries that share their keys are one to the descriptor
        entry = tl.where(stride_kb == 0, 0, base_b)
        k = tl.reshape(k_desc.load([entry, base_h, start, 0]), (BN, DP))
    else:
        n = start + tl.arange(0, BN)
        d = tl.arange(0, DP)
        base = k_ptr + base_b.to(tl.int64) * stride_kb + base_h.to(tl.int64) * stride_kh
        at = base + n[:, None].to(tl.int64) * stride_kn + d[None, :]
        if MASKED:
            k = tl.load(at, mask=(n[:, None] < n_keys) & (d[None, :] < D), other=0.0)
        elif D < DP:
            k = tl.load(at, mask=d[None, :] < D, other=0.0)
        else:
            k = tl.load(at)
    if UPCAST:  # the interpreter multiplies the bits of bfloat16
        scores = tl.dot(q.to(tl.float32), tl.trans(k.to(tl.float32)), input_precision=PRECISION)
    else:
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    if MASKED:
        n = start + tl.arange(0, BN)
        scores = tl.where(n[None, :] < n_keys, scores, -float("inf"))
    return scores


@triton.jit
def entry_of(pair, pairs, n_kv_heads):
    """(batch entry, KV head) of a place in a grid: all entries of a head one after another, since
    those of one row share their keys, which then come from L2."""
    batch = pairs // n_kv_heads
    return pair % batch, pair // batch


@triton.jit
def best_blocks_of_rows(
    q_ptr,
    k_desc,
    k_ptr,
    out_ptr,
    rows_ptr,
    row_tile,
    n_slots,
    pair,
    base_b,
    base_h,
    n_rows,
    n_queries,
    n_keys,
    tiles_per_split,
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
    BM: tl.constexpr,
    BN: tl.constexpr,
    LANES: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    ASM: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
):
    """`best_blocks_kernel` for one tile of rows and the split of this program."""
    split = tl.program_id(2)
    n_splits = tl.num_programs(2)
    slot = row_tile * BM + tl.arange(0, BM)
    row = slot
    if SOME:
        row = tl.load(rows_ptr + pair * n_rows + slot, mask=slot < n_slots, other=0)
    d = tl.arange(0, DP)
    head = base_h * GROUP + row // n_queries
    q_at = (
        q_ptr
        + base_b.to(tl.int64) * stride_qb
        + head[:, None].to(tl.int64) * stride_qh
        + (row % n_queries)[:, None].to(tl.int64) * stride_qt
        + d[None, :]
    )
    q = tl.load(q_at, mask=(slot[:, None] < n_slots) & (d[None, :] < D), other=0.0)

    # one lane: flat lists, since a [BM, 1] tensor is held once per column of the accumulator
    if LANES == 1:
        lane = tl.zeros((BM,), tl.int32)
    else:
        lane = tl.broadcast_to(tl.arange(0, LANES)[None, :], (BM, LANES))
    least = lane.to(tl.float32) * 0 - float("inf")
    state = (lane.to(tl.int64) * 0 + INT64_MIN,) * K + (least,)
    first = split * tiles_per_split
    full = tl.minimum(first + tiles_per_split, n_keys // BN)
    for tile in tl.range(first, full, num_stages=STAGES):
        scores = score_tile(
            q, k_desc, k_ptr, base_b, base_h, tile, n_keys, stride_kb, stride_kh, stride_kn,
            BN, D, DP, TMA, False, PRECISION, UPCAST,
        )  # fmt: skip
        value = lane_max(scores, BM, BN, LANES)
        state = insert(state, value, tile * LANES + lane, K, ASM, CONSTRAINTS)
    tail = n_keys // BN
    if (tail * BN < n_keys) & (tail >= first) & (tail < first + tiles_per_split):
        scores = score_tile(
            q, k_desc, k_ptr, base_b, base_h, tail, n_keys, stride_kb, stride_kh, stride_kn,
            BN, D, DP, TMA, True, PRECISION, UPCAST,
        )  # fmt: skip
        value = lane_max(scores, BM, BN, LANES)
        state = insert(state, value, tail * LANES + lane, K, ASM, CONSTRAINTS)

    slot = slot if LANES == 1 else slot[:, None]
    to = ((pair.to(tl.int64) * n_rows + slot) * n_splits + split) * (LANES * K) + lane * K
    inside = (slot < n_slots) & (lane >= 0)
    for j in tl.static_range(K):
        tl.store(out_ptr + to + j, state[j], mask=inside)


@triton.jit(
    do_not_specialize=["n_rows", "n_keys", "n_keys_step", "n_less", "n_queries", "n_kv_heads",
                       "tiles_per_split"]
)  # fmt: skip
def best_blocks_kernel(
    q_ptr,
    k_desc,
    k_ptr,
    out_ptr,
    rows_ptr,
    n_some_ptr,
    n_rows,
    n_queries,
    n_keys,
    n_keys_step,
    n_less,
    n_kv_heads,
    tiles_per_split,
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
    BM: tl.constexpr,
    BN: tl.constexpr,
    LANES: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
    TMA: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
    ASM: tl.constexpr,
    CONSTRAINTS: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (row tiles, KV heads * batch, splits) -> out [batch * KV heads, rows, splits, LANES, K].

    Entry b of the batch has the first n_keys[b * n_keys_step] - n_less keys where n_keys is a
    pointer.
    SOME: only the rows that rows_ptr [batch * KV heads, rows] lists, n_some_ptr of them per pair;
    out is then in the list's order, and the row tiles are the programs' in turn.
    """
    await_previous(DEPENDENT)
    base_b, base_h = entry_of(tl.program_id(1), tl.num_programs(1), n_kv_heads)
    pair = base_b * n_kv_heads + base_h
    n_keys = number(n_keys, base_b * n_keys_step, n_less)
    row_tile = tl.program_id(0)
    if SOME:
        n_slots = tl.load(n_some_ptr + pair)
        for tile in range(row_tile, tl.cdiv(n_slots, BM), tl.num_programs(0)):
            best_blocks_of_rows(
                q_ptr, k_desc, k_ptr, out_ptr, rows_ptr, tile, n_slots, pair, base_b, base_h,
                n_rows, n_queries, n_keys, tiles_per_split, stride_qb, stride_qh, stride_qt,
                stride_kb, stride_kh, stride_kn, SOME, GROUP, D, DP, BM, BN, LANES, K, STAGES, TMA,
                PRECISION, UPCAST, ASM, CONSTRAINTS,
            )  # fmt: skip
    else:
        best_blocks_of_rows(
            q_ptr, k_desc, k_ptr, out_ptr, rows_ptr, row_tile, n_rows, pair, base_b, base_h,
            n_rows, n_queries, n_keys, tiles_per_split, stride_qb, stride_qh, stride_qt,
            stride_kb, stride_kh, stride_kn, SOME, GROUP, D, DP, BM, BN, LANES, K, STAGES, TMA,
            PRECISION, UPCAST, ASM, CONSTRAINTS,
        )  # fmt: skip

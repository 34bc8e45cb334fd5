"""From what the 8-bit scan emitted to exact winners: pairs of rows and blocks, scored by block.

A row wants some tens of blocks, but rows of one KV head want the same ones, so the pairs are put
in the order of their blocks and a block's keys are read once for WINDOW rows: a small 16-bit
product gives the pair's block maximum. Back in the row's order, the blocks whose maximum reaches
the k-th are scored in float32 as in `triton_rescore`. Nothing waits for the host: what lies where
is counted on the device, and a row whose pairs do not fit is listed instead.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.topk_keys.triton_prefill import INT64_MIN
from reattention_kernels.topk_keys.triton_rescore import (
    block_ids,
    floor_below,
    key_offsets,
    merge_best,
    pack,
    packed_value,
    score_blocks,
    store_best,
    take_blocks,
)

WINDOW = 16  # pairs of one block that a program scores together: the least that a product takes
NOWHERE = tl.constexpr(-1)


@triton.jit(do_not_specialize=["n_rows", "n_segments", "index_pairs", "n_blocks", "capacity"])
def gather_pairs_kernel(
    id_ptr,
    count_ptr,
    histogram_ptr,
    total_ptr,
    row_start_ptr,
    row_pairs_ptr,
    open_ptr,
    n_open_ptr,
    pair_block_ptr,
    pair_rank_ptr,
    pair_row_ptr,
    n_rows,
    n_segments,
    index_pairs,
    n_blocks,
    capacity,
    ROOM: tl.constexpr,
    SP: tl.constexpr,
    STEP: tl.constexpr,
):
    """Grid (rows, batch * KV heads): a row's pairs into a stretch of their own, each with its block
    (counted over all index pairs) and its rank among the block's. A row that does not fit has
    row_pairs -1 and is listed in open [batch * KV heads, rows], of which there are n_open."""
    pair = tl.program_id(1)
    row = pair.to(tl.int64) * n_rows + tl.program_id(0)
    s = tl.arange(0, SP)
    count = tl.load(count_ptr + row * n_segments + s, mask=s < n_segments, other=0)
    total = tl.sum(count, 0)
    longest = tl.max(count, 0)
    fits = longest <= ROOM
    start = tl.atomic_add(total_ptr, tl.where(fits, total, 0), sem="relaxed")
    fits = fits & (start + total <= capacity)
    tl.store(row_start_ptr + row, start)
    tl.store(row_pairs_ptr + row, tl.where(fits, total, NOWHERE))
    if not fits:
        slot = tl.atomic_add(n_open_ptr + pair, 1, sem="relaxed")
        tl.store(open_ptr + pair.to(tl.int64) * n_rows + slot, tl.program_id(0))
        # a stretch that begins within the capacity is left marked as empty
        if longest <= ROOM:
            for at in range(start, tl.minimum(start + total, capacity), SP):
                tl.store(pair_block_ptr + at + s, s * 0 + NOWHERE, mask=at + s < capacity)
        return
    first = start + tl.cumsum(count, 0) - count
    for begin in range(0, longest, STEP):
        j = begin + tl.arange(0, STEP)[None, :]
        held = j < count[:, None]
        at = (row * n_segments + s)[:, None] * ROOM + j
        ident = tl.load(id_ptr + at, mask=held, other=0)
        block = (pair % index_pairs) * n_blocks + ident
        rank = tl.atomic_add(histogram_ptr + block, 1, mask=held, sem="relaxed")
        to = first[:, None] + j
        tl.store(pair_block_ptr + to, block, mask=held)
        tl.store(pair_rank_ptr + to, rank, mask=held)
        tl.store(pair_row_ptr + to, (to * 0 + row).to(tl.int32), mask=held)


@triton.jit(do_not_specialize=["n_blocks"])
def place_blocks_kernel(
    histogram_ptr, sorted_total_ptr, offset_ptr, sorted_row_ptr, n_blocks,
    WINDOW: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """Grid (blocks / SIZE,): where each block's pairs go, in whole windows; what a window has too
    much of is marked."""
    block = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    count = tl.load(histogram_ptr + block, mask=block < n_blocks, other=0)
    room = (count + WINDOW - 1) // WINDOW * WINDOW
    offset = tl.atomic_add(sorted_total_ptr, tl.sum(room, 0), sem="relaxed")
    offset += tl.cumsum(room, 0) - room
    tl.store(offset_ptr + block, offset, mask=block < n_blocks)
    for j in tl.static_range(WINDOW - 1):
        end = count + j
        tl.store(sorted_row_ptr + offset + end, end * 0 + NOWHERE, mask=end < room)


@triton.jit(do_not_specialize=["capacity"])
def sort_pairs_kernel(
    total_ptr,
    offset_ptr,
    pair_block_ptr,
    pair_rank_ptr,
    pair_row_ptr,
    sorted_row_ptr,
    sorted_pair_ptr,
    window_block_ptr,
    capacity,
    WINDOW: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Grid (programs,): each pair to the place that its block and rank give."""
    total = tl.minimum(tl.load(total_ptr), capacity)
    for start in range(tl.program_id(0) * SIZE, total, tl.num_programs(0) * SIZE):
        c = start + tl.arange(0, SIZE)
        block = tl.load(pair_block_ptr + c, mask=c < total, other=NOWHERE)
        held = block >= 0
        rank = tl.load(pair_rank_ptr + c, mask=held, other=0)
        to = tl.load(offset_ptr + block, mask=held, other=0) + rank
        tl.store(sorted_row_ptr + to, tl.load(pair_row_ptr + c, mask=held, other=0), mask=held)
        tl.store(sorted_pair_ptr + to, c, mask=held)
        tl.store(window_block_ptr + to // WINDOW, block, mask=held & (rank % WINDOW == 0))


@triton.jit
def window_at(
    sorted_row_ptr, sorted_pair_ptr, window_block_ptr, window, windows, WINDOW: tl.constexpr
):
    """(rows, -1 for none, pairs, block) of a window; nothing behind the last."""
    at = window * WINDOW + tl.arange(0, WINDOW)
    row = tl.load(sorted_row_ptr + at, mask=at < windows * WINDOW, other=NOWHERE)
    pair = tl.load(sorted_pair_ptr + at, mask=at < windows * WINDOW, other=0)
    return row, pair, tl.load(window_block_ptr + window, mask=window < windows, other=0)


@triton.jit(
    do_not_specialize=["n_keys_step", "capacity", "n_queries", "n_rows", "n_blocks"],
)
def score_pairs_kernel(
    q_ptr,
    k_ptr,
    sorted_total_ptr,
    sorted_row_ptr,
    sorted_pair_ptr,
    window_block_ptr,
    value_ptr,
    n_keys_ptr,
    n_keys_step,
    capacity,
    n_queries,
    n_rows,
    n_kv_heads,
    n_blocks,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    WINDOW: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (programs,): value [pairs] = the packed 16-bit block maximum, a window at a time.

    capacity: keys that are in memory, those behind an entry's last one too.
    """
    d = tl.arange(0, D)
    e = tl.arange(0, BLOCK)
    windows = tl.load(sorted_total_ptr) // WINDOW
    step = tl.num_programs(0)
    first = tl.program_id(0)
    row, to, block = window_at(
        sorted_row_ptr, sorted_pair_ptr, window_block_ptr, first, windows, WINDOW
    )
    for window in range(first, windows, step):
        held = row >= 0
        row = tl.maximum(row, 0)
        of_index = block // n_blocks
        ident = block % n_blocks
        pair = row // n_rows
        base_b = pair // n_kv_heads
        head = pair % n_kv_heads * GROUP + row % n_rows // n_queries
        q_at = base_b.to(tl.int64) * stride_qb + head.to(tl.int64) * stride_qh
        q_at += (row % n_queries).to(tl.int64) * stride_qt
        q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=held[:, None], other=0.0)
        n = key_offsets(e, ident, BLOCK, 4)
        base_k = k_ptr + (of_index // n_kv_heads).to(tl.int64) * stride_kb
        base_k += (of_index % n_kv_heads).to(tl.int64) * stride_kh
        at = n[:, None].to(tl.int64) * stride_kn + d[None, :]
        keys = tl.load(base_k + at, mask=(n < capacity)[:, None], other=0.0)
        limit = tl.load(n_keys_ptr + base_b * n_keys_step, mask=held, other=0)
        # the next window's rows, long before its queries
        next_row, next_to, block = window_at(
            sorted_row_ptr, sorted_pair_ptr, window_block_ptr, window + step, windows, WINDOW
        )
        if UPCAST:
            scores = tl.dot(q.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee")
        else:
            scores = tl.dot(q, tl.trans(keys))
        scores = tl.where(n[None, :] < limit[:, None], scores, -float("inf"))
        tl.store(value_ptr + to, pack(tl.max(scores, 1), ident), mask=held)
        row = next_row
        to = next_to


@triton.jit(do_not_specialize=["n_keys_step", "n_queries"])
def best_keys_kernel(
    q_ptr,
    k_ptr,
    value_ptr,
    row_start_ptr,
    row_pairs_ptr,
    out_ptr,
    n_keys_ptr,
    n_keys_step,
    n_queries,
    n_kv_heads,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BLOCK: tl.constexpr,
    K: tl.constexpr,
    KP: tl.constexpr,
    CP: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Grid (queries * GROUP, batch * KV heads) -> out [B, H, T, K] of the rows whose pairs fit."""
    pair = tl.program_id(1)
    # neighbours in the grid share a query position: their heads like the same keys (L2)
    t = tl.program_id(0) // GROUP
    g = tl.program_id(0) % GROUP
    row = (pair.to(tl.int64) * GROUP + g) * n_queries + t
    n_pairs = tl.load(row_pairs_ptr + row)
    if n_pairs < 0:
        return
    mine = value_ptr + tl.load(row_start_ptr + row)
    base_b = (pair // n_kv_heads).to(tl.int64)
    base_h = pair % n_kv_heads
    head = base_h * GROUP + g
    n_keys = tl.load(n_keys_ptr + base_b * n_keys_step)
    d = tl.arange(0, D)
    q_at = q_ptr + base_b * stride_qb + head.to(tl.int64) * stride_qh + t.to(tl.int64) * stride_qt
    q = tl.load(q_at + d).to(tl.float32)
    c = tl.arange(0, CP)
    best = tl.full((KP,), INT64_MIN, tl.int64)
    for start in range(0, n_pairs, CP):
        x = tl.load(mine + start + c, mask=start + c < n_pairs, other=INT64_MIN)
        best = merge_best(best, x, K, KP)
    floor = floor_below(tl.max(tl.where(tl.arange(0, KP) == K - 1, best, INT64_MIN), 0))
    best = tl.full((KP,), INT64_MIN, tl.int64)
    base_k = k_ptr + base_b * stride_kb + base_h.to(tl.int64) * stride_kh
    for start in range(0, n_pairs, CP):
        x = tl.load(mine + start + c, mask=start + c < n_pairs, other=INT64_MIN)
        value = packed_value(x)  # a block behind the last key has -inf
        x = tl.where((value >= floor) & (value > -float("inf")), x, INT64_MIN)
        while tl.max(x, 0) != INT64_MIN:
            x, some = take_blocks(x, CHUNK)
            ids = block_ids(some)
            y = score_blocks(q, base_k, ids, n_keys, stride_kn, D, D, BLOCK, 4, CHUNK, False)
            best = merge_best(best, y, K, KP)
    out_at = (base_b * n_kv_heads * GROUP + head) * n_queries + t
    store_best(out_ptr + out_at * K, best, K, KP)

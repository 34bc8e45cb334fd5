"""From what the 8-bit scan emitted to exact winners: pairs of rows and blocks, scored by block.

A row wants some tens of blocks, but rows of one KV head want the same ones, so the pairs are put
in the order of their blocks and a block's keys are read once for WINDOW rows: a small 16-bit
product gives the pair's block maximum. Back in the row's order, the blocks whose maximum reaches
the k-th are scored in float32 as in `triton_rescore`. Nothing waits for the host: what lies where
is counted on the device, and a row whose pairs do not fit is flagged instead.
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
):
    """Grid (rows, batch * KV heads): a row's pairs into a stretch of their own, each with its block
    (counted over all index pairs) and its rank among the block's. A row that does not fit has
    row_pairs -1 and its flag set."""
    pair = tl.program_id(1)
    row = pair.to(tl.int64) * n_rows + tl.program_id(0)
    s = tl.arange(0, SP)
    count = tl.load(count_ptr + row * n_segments + s, mask=s < n_segments, other=0)
    total = tl.sum(count, 0)
    fits = tl.max(count, 0) <= ROOM
    start = tl.atomic_add(total_ptr, tl.where(fits, total, 0), sem="relaxed")
    fits = fits & (start + total <= capacity) & (start >= 0)
    tl.store(row_start_ptr + row, start)
    tl.store(row_pairs_ptr + row, tl.where(fits, total, NOWHERE))
    tl.store(open_ptr + row, 1 - fits.to(tl.int32))
    j = tl.arange(0, ROOM)[None, :]
    count = tl.minimum(count, ROOM)
    held = j < count[:, None]
    at = (row * n_segments + s)[:, None] * ROOM + j
    ident = tl.load(id_ptr + at, mask=held, other=0)
    block = (pair % index_pairs) * n_blocks + ident
    counted = j < tl.where(fits, count, 0)[:, None]
    rank = tl.atomic_add(histogram_ptr + block, 1, mask=counted, sem="relaxed")
    to = start + (tl.cumsum(count, 0) - count)[:, None] + j
    # a stretch that begins within the capacity and ends beyond it is left marked as empty
    held = held & (to < capacity) & (to >= 0)
    tl.store(pair_block_ptr + to, tl.where(fits, block, NOWHERE), mask=held)
    tl.store(pair_rank_ptr + to, rank, mask=held)
    tl.store(pair_row_ptr + to, tl.where(fits, row.to(tl.int32), NOWHERE), mask=held)


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


@triton.jit(do_not_specialize=["n_keys_step", "n_queries", "n_rows", "n_blocks"])
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
    """Grid (programs,): value [pairs] = the packed 16-bit block maximum, a window at a time."""
    w = tl.arange(0, WINDOW)
    d = tl.arange(0, D)
    e = tl.arange(0, BLOCK)
    windows = tl.load(sorted_total_ptr) // WINDOW
    for window in range(tl.program_id(0), windows, tl.num_programs(0)):
        row = tl.load(sorted_row_ptr + window * WINDOW + w)
        held = row >= 0
        row = tl.maximum(row, 0)
        to = tl.load(sorted_pair_ptr + window * WINDOW + w, mask=held, other=0)
        block = tl.load(window_block_ptr + window)
        of_index = block // n_blocks
        ident = block % n_blocks
        pair = row // n_rows
        base_b = pair // n_kv_heads
        head = pair % n_kv_heads * GROUP + row % n_rows // n_queries
        limit = tl.load(n_keys_ptr + base_b * n_keys_step, mask=held, other=0)
        q_at = base_b.to(tl.int64) * stride_qb + head.to(tl.int64) * stride_qh
        q_at += (row % n_queries).to(tl.int64) * stride_qt
        q = tl.load(q_ptr + q_at[:, None] + d[None, :], mask=held[:, None], other=0.0)
        n = key_offsets(e, ident, BLOCK, 4)
        base_k = k_ptr + (of_index // n_kv_heads).to(tl.int64) * stride_kb
        base_k += (of_index % n_kv_heads).to(tl.int64) * stride_kh
        some = n < tl.max(limit, 0)
        at = n[:, None].to(tl.int64) * stride_kn + d[None, :]
        keys = tl.load(base_k + at, mask=some[:, None], other=0.0)
        if UPCAST:
            scores = tl.dot(q.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee")
        else:
            scores = tl.dot(q, tl.trans(keys))
        scores = tl.where(n[None, :] < limit[:, None], scores, -float("inf"))
        tl.store(value_ptr + to, pack(tl.max(scores, 1), ident), mask=held)


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


@triton.jit(do_not_specialize=["n_rows"])
def list_open_kernel(open_ptr, rows_ptr, n_open_ptr, n_rows, BLOCK: tl.constexpr):
    """Grid (batch * KV heads,): the rows whose flag is set, ascending, and how many."""
    pair = tl.program_id(0).to(tl.int64)
    found = 0
    for start in range(0, n_rows, BLOCK):
        row = start + tl.arange(0, BLOCK)
        flag = tl.load(open_ptr + pair * n_rows + row, mask=row < n_rows, other=0)
        slot = found + tl.cumsum(flag, 0) - 1
        tl.store(rows_ptr + pair * n_rows + slot, row, mask=flag > 0)
        found += tl.sum(flag, 0)
    tl.store(n_open_ptr + pair, found)

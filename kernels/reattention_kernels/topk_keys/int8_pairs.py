"""From what the 8-bit scan emitted to exact winners: pairs of rows and blocks, scored by block.

A row wants some tens of blocks, but rows of one KV head want the same ones, so the rows are listed
block by block and a block's keys are read once for WINDOW rows: a small 16-bit product gives their
scores. The few keys that reach the row's floor are listed for the row and scored in float32 as in
`triton_rescore`. Nothing waits for the host: what lies where is counted on the device, and a row
whose blocks or keys do not fit is listed instead.
"""

from __future__ import annotations

import triton
import triton.language as tl

from reattention_kernels.topk_keys.triton_prefill import INT64_MIN
from reattention_kernels.topk_keys.triton_rescore import key_offsets, merge_best, pack, store_best

WINDOW = 32  # rows of one block that are scored together
NOWHERE = tl.constexpr(-1)
OPEN = tl.constexpr(2**30)  # as a row's count of keys: not everything is listed


@triton.jit(do_not_specialize=["n_blocks", "places"])
def place_blocks_kernel(
    wanted_ptr, total_ptr, row_ptr, n_blocks, places, WINDOW: tl.constexpr, SIZE: tl.constexpr
):
    """Grid (blocks / SIZE,): how many rows want each block -> where their list begins, in whole
    windows; what a window has too much of is marked. total: the windows' places in all."""
    block = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    count = tl.load(wanted_ptr + block, mask=block < n_blocks, other=0)
    room = (count + WINDOW - 1) // WINDOW * WINDOW
    begin = tl.atomic_add(total_ptr, tl.sum(room, 0), sem="relaxed")
    begin += tl.cumsum(room, 0) - room
    tl.store(wanted_ptr + block, begin, mask=block < n_blocks)
    for j in tl.static_range(WINDOW - 1):
        end = count + j
        tl.store(row_ptr + begin + end, end * 0 + NOWHERE, mask=(end < room) & (begin < places))


@triton.jit(
    do_not_specialize=["n_rows", "n_segments", "index_pairs", "n_blocks", "per_split", "places"]
)
def list_rows_kernel(
    id_ptr,
    count_ptr,
    next_ptr,
    row_ptr,
    block_ptr,
    n_found_ptr,
    n_rows,
    n_segments,
    index_pairs,
    n_blocks,
    per_split,
    places,
    ROOM: tl.constexpr,
    SP: tl.constexpr,
    STEP: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """Grid (rows, batch * KV heads): the row into the lists of all blocks that it wants, and each
    window's block (counted over all index pairs). n_found [.., rows]: OPEN where they do not fit.

    next [index_pairs * n_blocks]: the next free place of each block's list.
    """
    pair = tl.program_id(1)
    row = pair.to(tl.int64) * n_rows + tl.program_id(0)
    s = tl.arange(0, SP)
    count = tl.load(count_ptr + row * n_segments + s, mask=s < n_segments, other=0)
    longest = tl.max(count, 0)
    first = pair % index_pairs * n_blocks + s // 4 * per_split
    last = -1
    for begin in range(0, tl.minimum(longest, ROOM), STEP):
        j = begin + tl.arange(0, STEP)[None, :]
        held = j < tl.minimum(count, ROOM)[:, None]
        at = (row * n_segments + s)[:, None] * ROOM + j
        ident = tl.load(id_ptr + at, mask=held, other=0).to(tl.int32) & 0xFFFF
        block = first[:, None] + ident
        to = tl.atomic_add(next_ptr + block, 1, mask=held, sem="relaxed")
        last = tl.maximum(last, tl.max(tl.max(tl.where(held, to, -1), 1), 0))
        held = held & (to < places)
        tl.store(row_ptr + to, (to * 0 + row).to(tl.int32), mask=held)
        tl.store(block_ptr + to // WINDOW, block, mask=held & (to % WINDOW == 0))
    fits = (longest <= ROOM) & (last < places)
    tl.store(n_found_ptr + row, tl.where(fits, 0, OPEN))


@triton.jit
def window_at(row_ptr, block_ptr, window, end, WINDOW: tl.constexpr):
    """(rows, -1 for none, block) of a window; nothing behind the last."""
    at = window * WINDOW + tl.arange(0, WINDOW)
    row = tl.load(row_ptr + at, mask=at < end * WINDOW, other=NOWHERE)
    return row, tl.load(block_ptr + window, mask=window < end, other=0)


@triton.jit(
    do_not_specialize=["n_keys_step", "capacity", "n_queries", "n_rows", "n_blocks", "places"],
)
def score_blocks_kernel(
    q_ptr,
    k_ptr,
    terms_ptr,
    total_ptr,
    row_ptr,
    block_ptr,
    found_ptr,
    n_found_ptr,
    n_keys_ptr,
    n_keys_step,
    capacity,
    n_queries,
    n_rows,
    n_kv_heads,
    n_blocks,
    places,
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
    FOUND: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (programs,): found [.., rows, FOUND] = the keys whose 16-bit product reaches the row's
    floor (terms [.., rows, 4], the last), n_found of them, a window at a time.

    capacity: keys that are in memory, those behind an entry's last one too.
    """
    d = tl.arange(0, D)
    e = tl.arange(0, BLOCK)
    windows = tl.minimum(tl.load(total_ptr), places) // WINDOW
    # neighbouring windows are of one block: its keys come from L1
    each = tl.cdiv(windows, tl.num_programs(0))
    first = tl.program_id(0) * each
    end = tl.minimum(first + each, windows)
    row, block = window_at(row_ptr, block_ptr, first, end, WINDOW)
    for window in tl.range(first, end, num_stages=1):
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
        floor = tl.load(terms_ptr + row.to(tl.int64) * 4 + 3, mask=held, other=0.0)
        # the next window's rows, long before its queries
        next_row, next_block = window_at(row_ptr, block_ptr, window + 1, end, WINDOW)
        if UPCAST:
            scores = tl.dot(q.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee")
        else:
            scores = tl.dot(q, tl.trans(keys))
        # not "at least": a NaN is not left out
        reached = (n[None, :] < limit[:, None]) & ~(scores < floor[:, None])
        counter = tl.broadcast_to((n_found_ptr + row)[:, None], (WINDOW, BLOCK))
        slot = tl.atomic_add(counter, 1, mask=reached, sem="relaxed")
        to = row[:, None].to(tl.int64) * FOUND + slot
        position = tl.broadcast_to(n[None, :], (WINDOW, BLOCK))
        tl.store(found_ptr + to, position, mask=reached & (slot < FOUND))
        row = next_row
        block = next_block


@triton.jit(do_not_specialize=["n_queries"])
def best_found_kernel(
    q_ptr,
    k_ptr,
    found_ptr,
    n_found_ptr,
    out_ptr,
    open_ptr,
    n_open_ptr,
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
    K: tl.constexpr,
    KP: tl.constexpr,
    FOUND: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Grid (queries * GROUP, batch * KV heads): the K best of the keys found -> out [B, H, T, K].
    Rows that could not be served: open [batch * KV heads, rows], n_open of them."""
    pair = tl.program_id(1)
    # neighbours in the grid share a query position: their heads like the same keys (L2)
    t = tl.program_id(0) // GROUP
    g = tl.program_id(0) % GROUP
    in_pair = g * n_queries + t
    row = pair.to(tl.int64) * GROUP * n_queries + in_pair
    n_found = tl.load(n_found_ptr + row)
    if n_found > FOUND:
        slot = tl.atomic_add(n_open_ptr + pair, 1, sem="relaxed")
        tl.store(open_ptr + pair.to(tl.int64) * GROUP * n_queries + slot, in_pair)
        return
    base_b = (pair // n_kv_heads).to(tl.int64)
    base_h = pair % n_kv_heads
    head = base_h * GROUP + g
    d = tl.arange(0, D)
    q_at = q_ptr + base_b * stride_qb + head.to(tl.int64) * stride_qh + t.to(tl.int64) * stride_qt
    q = tl.load(q_at + d).to(tl.float32)
    base_k = k_ptr + base_b * stride_kb + base_h.to(tl.int64) * stride_kh
    best = tl.full((KP,), INT64_MIN, tl.int64)
    for start in range(0, n_found, CHUNK):
        c = start + tl.arange(0, CHUNK)
        n = tl.load(found_ptr + row * FOUND + c, mask=c < n_found, other=0)
        at = base_k + n[:, None].to(tl.int64) * stride_kn + d[None, :]
        keys = tl.load(at, mask=(c < n_found)[:, None], other=0.0)
        scores = tl.sum(keys.to(tl.float32) * q[None, :], 1)
        best = merge_best(best, tl.where(c < n_found, pack(scores, n), INT64_MIN), K, KP)
    out_at = (base_b * n_kv_heads * GROUP + head) * n_queries + t
    store_best(out_ptr + out_at * K, best, K, KP)

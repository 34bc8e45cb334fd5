"""Thresholds for the 8-bit scan, from the keys that won in earlier calls.

On real keys the k-th best of the last chunks' winners is the k-th best of all for two rows of
three, and hardly below it for the others (docs/kernels.md). The winners are remembered in a table
of thousands of slots per KV head, position p in slot p % slots: each position has one place, so all
are distinct, and the k-th best score of distinct keys is a lower bound on the k-th best of all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.topk_keys.int8_index import Int8Index, kth_largest
from reattention_kernels.topk_keys.triton import interpreted

COLUMNS = 64  # groups of slots; the k best of the groups' maxima count
ROWS = 128
SPLITS = 4


@triton.jit(do_not_specialize=["n_winners", "index_pairs"])
def remember_kernel(
    winners_ptr, table_ptr, n_winners, index_pairs, SLOTS: tl.constexpr, SIZE: tl.constexpr
):
    """Grid (winners / SIZE, batch * KV heads): winners [batch * KV heads, n_winners]. Which of two
    positions keeps a slot is left to chance: either is a key that did well."""
    pair = tl.program_id(1)
    i = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    at = winners_ptr + pair.to(tl.int64) * n_winners + i
    position = tl.load(at, mask=i < n_winners, other=-1)
    slot = pair % index_pairs * SLOTS + position % SLOTS
    tl.store(table_ptr + slot, position, mask=position >= 0)


@triton.jit
def remembered_keys_kernel(
    k_ptr,
    table_ptr,
    out_ptr,
    capacity,
    n_kv_heads,
    stride_kb,
    stride_kh,
    stride_kn,
    D: tl.constexpr,
    SLOTS: tl.constexpr,
    SIZE: tl.constexpr,
):
    """Grid (SLOTS / SIZE, index pairs): the keys of the table, side by side [.., SLOTS, D].

    capacity: keys that are in memory; winners behind them (of a row that was cut) read as zeros.
    """
    pair = tl.program_id(1)
    slot = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    d = tl.arange(0, D)
    n = tl.load(table_ptr + pair * SLOTS + slot)
    base_k = k_ptr + (pair // n_kv_heads).to(tl.int64) * stride_kb
    base_k += (pair % n_kv_heads).to(tl.int64) * stride_kh
    at = base_k + n[:, None].to(tl.int64) * stride_kn + d[None, :]
    keys = tl.load(at, mask=((n >= 0) & (n < capacity))[:, None], other=0.0)
    tl.store(out_ptr + (pair * SLOTS + slot)[:, None] * D + d[None, :], keys)


@triton.jit(do_not_specialize=["n_keys_step", "n_queries", "n_rows", "index_pairs"])
def best_remembered_kernel(
    q_ptr,
    k_ptr,
    table_ptr,
    out_ptr,
    n_keys_ptr,
    n_keys_step,
    n_queries,
    n_rows,
    n_kv_heads,
    index_pairs,
    stride_qb,
    stride_qh,
    stride_qt,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLOTS: tl.constexpr,
    PARTS: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (row tiles, batch * KV heads, splits) -> out [batch * KV heads, rows, splits, K]: the K
    best of COLUMNS maxima over PARTS * COLUMNS of the table's slots, each of slots of its own.

    k_ptr: the keys of the table, [index pairs, SLOTS, D].
    """
    pair = tl.program_id(1)
    split = tl.program_id(2)
    base_b = (pair // n_kv_heads).to(tl.int64)
    base_h = pair % n_kv_heads
    n_keys = tl.load(n_keys_ptr + base_b * n_keys_step)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    d = tl.arange(0, D)
    head = base_h * GROUP + row // n_queries
    at = base_b * stride_qb + head.to(tl.int64) * stride_qh
    at += (row % n_queries).to(tl.int64) * stride_qt
    q = tl.load(q_ptr + at[:, None] + d[None, :], mask=(row < n_rows)[:, None], other=0.0)
    mine = pair % index_pairs * SLOTS + split * (PARTS * COLUMNS)
    column = tl.arange(0, COLUMNS)
    most = tl.full((BM, COLUMNS), -float("inf"), tl.float32)
    for part in tl.range(0, PARTS, num_stages=STAGES):
        slot = mine + part * COLUMNS + column
        n = tl.load(table_ptr + slot)
        held = (n >= 0) & (n < n_keys)
        keys = tl.load(k_ptr + slot[:, None] * D + d[None, :])
        if UPCAST:
            scores = tl.dot(q.to(tl.float32), tl.trans(keys.to(tl.float32)), input_precision="ieee")
        else:
            scores = tl.dot(q, tl.trans(keys))
        most = tl.maximum(most, tl.where(held[None, :], scores, -float("inf")))
    to = ((pair.to(tl.int64) * n_rows + row) * tl.num_programs(2) + split) * K
    for j in tl.static_range(K):
        value, most = kth_largest(most, COLUMNS)
        tl.store(out_ptr + to + j, value, mask=row < n_rows)


def remember(index: Int8Index, winners: Tensor, kv_heads: int) -> None:
    """Keep winners int32 [B, H, T, k] (-1: none) in the index's table."""
    pairs = winners.shape[0] * kv_heads
    n = winners.numel() // pairs
    winners = winners.contiguous()
    size = min(1024, triton.next_power_of_2(n))
    remember_kernel[(-(-n // size), pairs)](
        winners, index.winners, n, *index.winners.shape, SIZE=size,
    )  # fmt: skip
    index.warm = True


def best_remembered(
    query: Tensor, key: Tensor, index: Int8Index, k: int, n: Tensor
) -> tuple[Tensor, int]:
    """float32 [B * Hkv, G * T, parts * k] scores of distinct keys, -inf for none, and parts * k."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    splits = SPLITS if n_rows > ROWS else 4 * SPLITS
    index_pairs, slots = index.winners.shape
    held = torch.empty(index_pairs, slots, d, dtype=key.dtype, device=key.device)
    remembered_keys_kernel[(slots // 32, index_pairs)](
        key, index.winners, held, key.shape[2], kv_heads, *key.stride()[:3],
        D=d, SLOTS=slots, SIZE=32,
    )  # fmt: skip
    found = torch.empty(pairs, n_rows, splits * k, dtype=torch.float32, device=query.device)
    best_remembered_kernel[(-(-n_rows // ROWS), pairs, splits)](
        query, held, index.winners, found, n, n.stride(0), t, n_rows, kv_heads, index_pairs,
        *query.stride()[:3],
        GROUP=h // kv_heads, D=d, BM=ROWS, COLUMNS=COLUMNS, SLOTS=slots,
        PARTS=slots // COLUMNS // splits, K=k, STAGES=3, UPCAST=interpreted(), num_warps=8,
    )  # fmt: skip
    return found, splits * k

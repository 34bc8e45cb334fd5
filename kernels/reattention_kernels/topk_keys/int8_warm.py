"""Thresholds for the 8-bit scan, from the keys that won in earlier calls.

On real keys the k-th best of the last chunks' winners is the k-th best of all for two rows of
three, and hardly below it for the others (docs/kernels.md). The winners are remembered in a table
of SLOTS per KV head, position p in slot p % SLOTS: each position has one place, so all are
distinct, and the k-th best score of distinct keys is a lower bound on the k-th best of all keys.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.topk_keys.int8_index import SLOTS, Int8Index, kth_largest
from reattention_kernels.topk_keys.triton import interpreted

COLUMNS = 128  # groups of slots; the k best of the groups' maxima count
ROWS = 64


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


@triton.jit(do_not_specialize=["n_keys_step", "n_queries", "n_rows", "index_pairs", "per_split"])
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
    per_split,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    COLUMNS: tl.constexpr,
    SLOTS: tl.constexpr,
    K: tl.constexpr,
    STAGES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (row tiles, batch * KV heads, splits) -> out [batch * KV heads, rows, splits, K]: the K
    best of COLUMNS maxima over the table's slots, each of slots of its own."""
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
    base_k = k_ptr + base_b * stride_kb + base_h.to(tl.int64) * stride_kh
    mine = table_ptr + pair % index_pairs * SLOTS
    column = tl.arange(0, COLUMNS)
    most = tl.full((BM, COLUMNS), -float("inf"), tl.float32)
    first = split * per_split
    for part in tl.range(first, first + per_split, num_stages=STAGES):
        n = tl.load(mine + part * COLUMNS + column)
        held = (n >= 0) & (n < n_keys)
        n = tl.where(held, n, 0)
        keys = tl.load(base_k + n[:, None].to(tl.int64) * stride_kn + d[None, :])
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
        winners, index.winners, n, index.winners.shape[0], SLOTS=SLOTS, SIZE=size,
    )  # fmt: skip
    index.warm = True


def best_remembered(
    query: Tensor, key: Tensor, index: Int8Index, k: int, n: Tensor
) -> tuple[Tensor, int]:
    """float32 [B * Hkv, G * T, parts * k] scores of distinct keys, -inf for none, and parts * k."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    splits = 2 if n_rows > ROWS else SLOTS // COLUMNS
    found = torch.empty(pairs, n_rows, splits * k, dtype=torch.float32, device=query.device)
    best_remembered_kernel[(-(-n_rows // ROWS), pairs, splits)](
        query, key, index.winners, found, n, n.stride(0), t, n_rows, kv_heads,
        index.winners.shape[0], SLOTS // COLUMNS // splits,
        *query.stride()[:3], *key.stride()[:3],
        GROUP=h // kv_heads, D=d, BM=ROWS, COLUMNS=COLUMNS, SLOTS=SLOTS, K=k,
        STAGES=2, UPCAST=interpreted(), num_warps=4,
    )  # fmt: skip
    return found, splits * k

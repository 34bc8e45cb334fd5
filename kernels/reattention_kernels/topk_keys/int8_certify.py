"""Exact top-k from the 8-bit index: rescore what the bounds leave open, certify, or send back.

Candidate blocks are rescored in the keys' own precision in the order of their upper bounds, until
the next bound lies below the k-th best score found. If the bounds of all blocks that the lists
dropped lie below it as well, the row is certified: no other key can be in its top k. The others go
through the 16-bit pass. The result is the same as `topk_keys` in every case.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.device_number import number
from reattention_kernels.topk_keys.int8_index import Int8Index, quantize_queries_kernel
from reattention_kernels.topk_keys.int8_naive import best_bounds_naive
from reattention_kernels.topk_keys.triton import (
    Tile,
    best_blocks_of,
    hopper_ready,
    interpreted,
    rescore,
    splits_of,
)
from reattention_kernels.topk_keys.triton_prefill import INT64_MIN
from reattention_kernels.topk_keys.triton_rescore import (
    block_ids,
    merge_best,
    packed_value,
    score_blocks,
    store_best,
    take_blocks,
)

LIST = 7  # blocks kept per row, lane and split: as many as the registers hold
SCAN = Tile(128, 256, 8, 5, parts=2, gluon=True)
SCAN_FEW = Tile(64, 256, 4, 3, parts=2, per_sm=2, gluon=True)
SPLITS = 8  # of the keys, each with lists of its own: nearly every row is then certified
CHUNK_CHANNELS, CERTIFY_WARPS = 128, 2  # blocks rescored together x head_dim
FALLBACK = Tile(64, 128, 4, 3, per_sm=2)


@triton.jit
def bound(entry, scale, middle, rounding):
    """Upper bound on the scores q.k of a block, from its packed list value."""
    u = packed_value(entry) * scale
    return u + tl.abs(u) * 2.0**-20 + middle + rounding


@triton.jit
def kth_score(best, K: tl.constexpr, KP: tl.constexpr):
    """The k-th score of the packed best [KP], -inf while there are fewer."""
    entry = tl.max(tl.where(tl.arange(0, KP) == K - 1, best, INT64_MIN), 0)
    return tl.where(entry == INT64_MIN, -float("inf"), packed_value(entry))


@triton.jit(do_not_specialize=["n_queries", "n_keys", "n_cand"])
def certify_kernel(
    q_ptr,
    k_ptr,
    cand_ptr,
    row_ptr,
    largest_ptr,
    out_ptr,
    open_ptr,
    n_queries,
    n_keys,
    n_kv_heads,
    n_cand,
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
    LIST: tl.constexpr,
):
    """Grid (queries * GROUP, batch * KV heads) -> out [B, H, T, K], open [B*Hkv, GROUP*T] flags."""
    n_keys = number(n_keys)
    pair = tl.program_id(1)
    t = tl.program_id(0) // GROUP
    g = tl.program_id(0) % GROUP
    row = (pair.to(tl.int64) * GROUP + g) * n_queries + t
    base_b = (pair // n_kv_heads).to(tl.int64)
    base_h = pair % n_kv_heads
    head = base_h * GROUP + g
    d = tl.arange(0, D)
    q_at = q_ptr + base_b * stride_qb + head.to(tl.int64) * stride_qh + t.to(tl.int64) * stride_qt
    q = tl.load(q_at + d).to(tl.float32)
    scale = tl.load(row_ptr + row * 4)
    middle = tl.load(row_ptr + row * 4 + 1)
    # float32 sums of the scores and of the bounds: at most D 2^-24 |q| |k| off each
    rounding = tl.sqrt(tl.sum(q * q, 0)) * tl.load(largest_ptr + pair) * (D * 2.0**-23)

    c = tl.arange(0, CP)
    cand = tl.load(cand_ptr + row * n_cand + c, mask=c < n_cand, other=INT64_MIN)
    dropped = tl.max(tl.where(c % LIST == LIST - 1, cand, INT64_MIN), 0)
    best = tl.full((KP,), INT64_MIN, tl.int64)
    base_k = k_ptr + base_b * stride_kb + base_h.to(tl.int64) * stride_kh
    kth = -float("inf")
    ahead = tl.max(cand, 0)
    while (ahead != INT64_MIN) & (bound(ahead, scale, middle, rounding) >= kth):
        cand, some = take_blocks(cand, CHUNK)
        ids = block_ids(some)
        x = score_blocks(q, base_k, ids, n_keys, stride_kn, D, D, BLOCK, 4, CHUNK, False)
        best = merge_best(best, x, K, KP)
        kth = kth_score(best, K, KP)
        ahead = tl.max(cand, 0)
    left = (dropped != INT64_MIN) & (bound(dropped, scale, middle, rounding) >= kth)
    tl.store(open_ptr + row, left.to(tl.int32))
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


def topk_keys_int8(
    query: Tensor, key: Tensor, index: Int8Index, k: int, device_length: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`topk_keys` in mode "exact", through the index (which must hold all of key); k <= LIST.

    Returns the positions int32 [B, H, T, k], and int32 [B * Hkv] how many rows could not be
    certified and took the 16-bit pass.
    """
    b, h, t, d = query.shape
    kv_heads, n = key.shape[1], key.shape[2] if device_length is None else device_length
    if (device_length is None and index.size != n) or k > LIST:
        raise ValueError(
            f"the index holds {index.size} keys and lists of {LIST}; "
            f"it cannot serve {key.shape[2]} keys and k={k}. Call update() first."
        )
    query = query if query.stride(3) == 1 else query.contiguous()
    group, pairs = h // kv_heads, b * kv_heads
    n_rows = group * t
    device = query.device
    rotated = torch.empty(b, kv_heads, n_rows, d, dtype=torch.int8, device=device)
    terms = torch.empty(pairs, n_rows, 4, dtype=torch.float32, device=device)
    quantize_queries_kernel[(triton.cdiv(n_rows, 64), pairs)](
        query, index.matrix, index.mean, rotated, terms, t, n_rows, kv_heads, *query.stride()[:3],
        GROUP=group, D=d, ROWS=64, UPCAST=interpreted(),
    )  # fmt: skip
    blocks = best_bounds(rotated, terms, index, key.shape[2], n, k)
    out = torch.empty(b, h, t, k, dtype=torch.int32, device=device)
    flags, rows = torch.empty(2, pairs, n_rows, dtype=torch.int32, device=device)
    n_open = torch.empty(pairs, dtype=torch.int32, device=device)
    n_cand = blocks.shape[2]
    certify_kernel[(n_rows, pairs)](
        query, key, blocks, terms, index.largest, out, flags, t, n, kv_heads, n_cand,
        *query.stride()[:3], *key.stride()[:3],
        GROUP=group, D=d, BLOCK=SCAN.block, K=k, KP=triton.next_power_of_2(k),
        CP=triton.next_power_of_2(n_cand), CHUNK=CHUNK_CHANNELS // d, LIST=LIST,
        num_warps=CERTIFY_WARPS,
    )  # fmt: skip
    list_open_kernel[(pairs,)](flags, rows, n_open, n_rows, BLOCK=1024)
    some = (rows, n_open)
    blocks = best_blocks_of(query, key, k, FALLBACK, n, some)
    rescore(query, key, blocks, out, FALLBACK, n, some=some)
    return out, n_open


def indexable(query: Tensor, key: Tensor, k: int) -> bool:
    """Whether `topk_keys_int8` serves these: 16 bit on Hopper, head_dim 64 or 128, few keys."""
    return k <= LIST and query.element_size() == 2 and hopper_ready(key)


def best_bounds(
    rotated: Tensor, terms: Tensor, index: Int8Index, capacity: int, n: int | Tensor, k: int
) -> Tensor:
    """Per row, lane and split the LIST blocks with the largest upper bounds, packed.

    n: how many keys there are, or where that stands; capacity: at most so many.
    """
    if interpreted():
        return best_bounds_naive(rotated, terms, index.keys[:, :, : int(n)], index.blocks, LIST)
    from reattention_kernels.topk_keys.gluon_prefill import best_blocks_gluon

    keys = index.keys[:, :, :capacity]
    n_rows, pairs = rotated.shape[2], terms.shape[0]
    tile = SCAN_FEW if n_rows <= 64 else SCAN
    per_split, splits = splits_of(n_rows, pairs, capacity, tile, rotated.device)
    wanted = max(splits, min(SPLITS, -(-capacity // (8 * tile.keys))))
    per_split = -(-capacity // (tile.keys * wanted))
    splits = -(-capacity // (tile.keys * per_split))
    bounds = (terms, index.blocks, index.largest)
    return best_blocks_gluon(rotated, keys, bounds, LIST, k, tile, n, per_split, splits)

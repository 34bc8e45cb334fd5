"""Memory-bounded form of `topk_keys` in PyTorch: tiles of keys, a running list of candidates.

Matrix products find k + SPARE candidates a query; `pair_scores` decides among them. Within a tile
the block-max theorem holds the work down: the best keys of a row lie in the blocks with the
largest maxima, so only a few small blocks per row are ever ordered. A row that left out a key
whose product lies within `product_margin` of its k-th is decided again, from all such keys
(`close_keys`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.topk_keys.close_keys import EXACT_BLOCK_KEYS, best_of_close
from reattention_kernels.topk_keys.naive import BLOCK_MAX_KEYS
from reattention_kernels.topk_keys.products import (
    TILE_KEYS,
    TILE_ROWS,
    exact_products,
    tile_products,
)
from reattention_kernels.topk_keys.scores import pair_scores, product_margin, score_dtype

SPARE = 1  # candidates kept beside the k best, so that a near-tie of two keys is decided at once


def topk_keys_blockwise(query: Tensor, key: Tensor, k: int, mode: str = "exact") -> Tensor:
    """Same contract as `reattention_kernels.topk_keys`; extra memory does not grow with N."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    winners = torch.empty(b, h, t, k, dtype=torch.int32, device=query.device)
    # rows of one KV head together  # [B, Hkv, G*T, D]
    rows = query.reshape(b, kv_heads, h * t // kv_heads, d)
    out = winners.view(b, kv_heads, h * t // kv_heads, k)
    # the few rows of a decode step: all heads in one call of each operation
    step = kv_heads if h * t <= TILE_ROWS else 1
    with exact_products(query.dtype):
        for row in range(b):
            for head in range(0, kv_heads, step):
                some = slice(head, head + step)
                out[row, some] = _best_of_heads(rows[row, some], key[row, some], k, mode)
    return winners


def _best_of_heads(query: Tensor, key: Tensor, k: int, mode: str) -> Tensor:
    """query [G, R, D], key [G, N, D] -> int64 [G, R, k]."""
    dtype = score_dtype(query.dtype)
    query = query.to(dtype)
    query_t = query.transpose(1, 2).contiguous()  # [G, D, R]
    heads, n_rows, _ = query.shape
    products = query.new_full((heads, n_rows, k + SPARE), -torch.inf)
    positions = torch.full_like(products, -1, dtype=torch.int64)
    left_out = query.new_full((heads, n_rows), -torch.inf)  # the largest product not kept
    margin = query.new_zeros(heads, n_rows)
    for start in range(0, key.shape[1], TILE_KEYS):
        tile = key[:, start : start + TILE_KEYS].to(dtype)
        margin = torch.maximum(margin, product_margin(query, tile))
        step = TILE_ROWS // heads
        for first in range(0, n_rows, step):
            part = slice(first, first + step)
            found, columns, lost = _best_of_tile(
                tile, query_t[:, :, part], margin[:, part], k + SPARE, mode
            )
            held = products[:, part], positions[:, part], left_out[:, part]
            if start == 0:
                held[0][..., : found.shape[2]] = found
                held[1][..., : found.shape[2]] = columns
                held[2][:] = lost
            else:
                _merge(*held, found, columns + start, lost)
    winners = _decide(query, key, products, positions, k)
    limit = products[..., k - 1] - margin
    close = (left_out >= limit) & (left_out > -torch.inf)
    for head in close.any(1).nonzero()[:, 0].tolist():
        rows = close[head].nonzero()[:, 0]
        winners[head, rows] = best_of_close(
            query[head, rows], key[head], k, limit[head, rows], margin[head, rows], mode
        )
    return winners


def _best_of_tile(
    key: Tensor, query_t: Tensor, margin: Tensor, keep: int, mode: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest products of a tile: [G, R, keep] values and columns, the largest left out [G, R].

    In mode block_max only the largest of each block of keys is a candidate. Where a second key
    comes within the margin of it, which of them that is remains open: infinity is left out.
    """
    block = BLOCK_MAX_KEYS if mode == "block_max" else EXACT_BLOCK_KEYS
    blocks, maxima = tile_products(key, query_t, block)
    best, chosen, left_out = _largest(maxima.transpose(1, 2), keep)  # of blocks
    offsets = torch.arange(block, device=best.device)
    columns = (chosen[..., None] * block + offsets).flatten(2)  # [G, R, keep * block]
    candidates = blocks.flatten(1, 2).gather(1, columns.transpose(1, 2)).transpose(1, 2)
    if mode == "block_max":
        (most, second), at = (x.unbind(3) for x in candidates.unflatten(2, (-1, block)).topk(2))
        unsure = (second >= most - margin[..., None]) & (second > -torch.inf)
        left_out = left_out.masked_fill(unsure.any(2), torch.inf)
        return most, chosen * block + at[0], left_out
    values, chosen, lost = _largest(candidates, keep)
    return values, columns.gather(2, chosen), torch.maximum(left_out, lost)


def _largest(values: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` largest of each row (fewer where there are fewer), their columns, and the next
    one, -inf without."""
    best, columns = values.topk(min(count + 1, values.shape[2]), dim=2)
    if best.shape[2] <= count:
        return best, columns, best.new_full(best.shape[:2], -torch.inf)
    return best[..., :count], columns[..., :count], best[..., count]


def _merge(
    products: Tensor, positions: Tensor, left_out: Tensor, found: Tensor, at: Tensor, lost: Tensor
) -> None:
    """Take what a tile found into the candidates [G, R, k + SPARE] held so far, in place."""
    best, order, next_best = _largest(torch.cat((products, found), 2), products.shape[2])
    positions.copy_(torch.cat((positions, at), 2).gather(2, order))
    products.copy_(best)
    left_out.copy_(torch.maximum(left_out, torch.maximum(lost, next_best)))


def _decide(query: Tensor, key: Tensor, products: Tensor, positions: Tensor, k: int) -> Tensor:
    """The k best of the candidates by score, then by position: int64 [G, R, k], -1 for none."""
    if not key.shape[1]:
        return positions[..., :k]
    positions = positions.masked_fill(products == -torch.inf, -1).sort(dim=2).values
    heads = torch.arange(key.shape[0], device=key.device)[:, None, None]
    scores = pair_scores(query[:, :, None], key[heads, positions.clamp(min=0)])
    scores = scores.masked_fill(positions < 0, -torch.inf)
    order = scores.sort(dim=2, descending=True, stable=True).indices[..., :k]
    return positions.gather(2, order)

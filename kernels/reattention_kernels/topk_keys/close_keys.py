"""Rows whose best keys lie too close for a product to decide: every such key is scored.

Repeated tokens have equal keys in the first layer, so real text is full of such rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.topk_keys.naive import BLOCK_MAX_KEYS
from reattention_kernels.topk_keys.products import TILE_KEYS, TILE_ROWS, tile_products
from reattention_kernels.topk_keys.scores import pair_scores, repeats

EXACT_BLOCK_KEYS = 16
PAIRS = 1 << 16  # (row, key) pairs scored together
MANY_ROWS = 32  # for fewer, finding the repeated keys takes longer than scoring them


def best_of_close(
    query: Tensor, key: Tensor, k: int, limit: Tensor, margin: Tensor, mode: str
) -> Tensor:
    """The k best keys of each row by `pair_scores`, lower positions first among equals.

    query [R, D] in score_dtype, key [N, D]; keys whose product lies below limit [R], or, in mode
    block_max, further than margin [R] below the largest of their block, are none of them
    -> int64 [R, k], -1 for none.
    """
    best = query.new_full((query.shape[0], k), -torch.inf)
    positions = torch.full((query.shape[0], k), -1, dtype=torch.int64, device=query.device)
    for start in range(0, key.shape[0], TILE_KEYS):
        tile = key[start : start + TILE_KEYS]
        place = torch.arange(start, start + tile.shape[0], device=key.device)
        if mode == "exact" and query.shape[0] >= MANY_ROWS:
            needed = ~repeats(tile, k)
            tile, place = tile[needed], place[needed]
        tile = tile.to(query.dtype)
        for first in range(0, query.shape[0], TILE_ROWS):
            part = slice(first, first + TILE_ROWS)
            rows, columns, scores = _close_pairs(
                query[part], tile, limit[part], margin[part], mode == "block_max"
            )
            _merge(best[part], positions[part], rows, place[columns], scores)
    return positions


def _close_pairs(
    query: Tensor, key: Tensor, limit: Tensor, margin: Tensor, one_per_block: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns (ascending within a row) and scores of the keys that may be among the best."""
    block = BLOCK_MAX_KEYS if one_per_block else EXACT_BLOCK_KEYS
    (products,), (maxima,) = tile_products(key[None], query.T.contiguous()[None], block)
    at, rows = (maxima >= limit).nonzero(as_tuple=True)  # blocks: [P]
    least = limit[rows]
    if one_per_block:
        least = torch.maximum(least, maxima[at, rows] - margin[rows])
    found = products[at, :, rows]  # [P, block]
    found = (found >= least[:, None]) & (found > -torch.inf)  # what pads the last block is no key
    pairs, offsets = found.nonzero(as_tuple=True)
    columns = at[pairs] * block + offsets
    scores = _scores(query, key, rows[pairs], columns)
    if one_per_block:
        of_block = scores.new_full((at.shape[0], block), -torch.inf)
        of_block[pairs, offsets] = scores
        scores, offsets = of_block.max(1)  # the first of equals
        columns = at * block + offsets
    else:
        rows = rows[pairs]
    rows, order = rows.sort(stable=True)
    return rows, columns[order], scores[order]


def _scores(query: Tensor, key: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    parts = zip(rows.split(PAIRS), columns.split(PAIRS), strict=True)
    return torch.cat([pair_scores(query[row], key[column]) for row, column in parts])


def _merge(best: Tensor, positions: Tensor, rows: Tensor, at: Tensor, scores: Tensor) -> None:
    """Take pairs, ascending by row and position, into the best k [R, k] held so far, in place.

    What is held comes first: it has the lower positions, and the sort is stable.
    """
    n_rows, k = best.shape
    counts = rows.bincount(minlength=n_rows)
    place = torch.arange(rows.shape[0], device=rows.device) - (counts.cumsum(0) - counts)[rows]
    width = int(counts.max())
    found = best.new_full((n_rows, width), -torch.inf)
    where = positions.new_full((n_rows, width), -1)
    found[rows, place], where[rows, place] = scores, at
    values, order = torch.cat((best, found), 1).sort(dim=1, descending=True, stable=True)
    best.copy_(values[:, :k])
    positions.copy_(torch.cat((positions, where), 1).gather(1, order[:, :k]))

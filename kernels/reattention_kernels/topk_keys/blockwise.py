"""Memory-bounded form of `topk_keys` in PyTorch: tiles of keys, a running best k per query.

Within a tile the block-max theorem holds the work down: the best k keys of a row lie in the k
blocks with the largest maxima (equal maxima: the lower block), so only k small blocks per row are
ever ordered.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reattention_kernels.topk_keys.naive import BLOCK_MAX_KEYS

TILE_KEYS = 8192
TILE_ROWS = 512  # with TILE_KEYS: 16 MiB of float32 scores alive at a time
PRODUCT_KEYS = 2048  # keys per matrix product: what it writes is reduced while still in L2
EXACT_BLOCK_KEYS = 16


def topk_keys_blockwise(query: Tensor, key: Tensor, k: int, mode: str = "exact") -> Tensor:
    """Same contract as `reattention_kernels.topk_keys`; extra memory does not grow with T or N."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    winners = torch.empty(b, h, t, k, dtype=torch.int32, device=query.device)
    rows = query.reshape(b, kv_heads, -1, d)  # rows of one KV head together: [B, Hkv, G*T, D]
    out = winners.view(b, kv_heads, -1, k)
    with exact_products(query.dtype):
        for row in range(b):
            for head in range(kv_heads):
                for start in range(0, rows.shape[2], TILE_ROWS):
                    part = slice(start, start + TILE_ROWS)
                    best = _best_of_rows(rows[row, head, part], key[row, head], k, mode)
                    out[row, head, part] = best
    return winners


@contextmanager
def exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Within: float32 matrix products that lose nothing of inputs that were `dtype`.

    bf16 values survive the conversion to bf16 that oneDNN's fast mode makes, and it still
    accumulates in float32: on CPUs with bf16 matrix units that is 3x faster, and exact.
    """
    cpu, cuda = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul
    before = cpu.fp32_precision, cuda.fp32_precision
    cpu.fp32_precision = "bf16" if dtype == torch.bfloat16 else "ieee"
    cuda.fp32_precision = "ieee"  # never TF32
    try:
        yield
    finally:
        cpu.fp32_precision, cuda.fp32_precision = before


def _best_of_rows(query: Tensor, key: Tensor, k: int, mode: str) -> Tensor:
    """query [R, D], key [N, D] -> int32 [R, k]."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    query_t = query.to(dtype).T.contiguous()  # [D, R]
    n, n_rows = key.shape[0], query.shape[0]
    block = BLOCK_MAX_KEYS if mode == "block_max" else EXACT_BLOCK_KEYS
    per_block = 1 if mode == "block_max" else k
    scores = query_t.new_empty(min(TILE_KEYS, n + -n % block), n_rows)
    values = query_t.new_full((n_rows, k), -torch.inf)
    positions = torch.full((n_rows, k), -1, dtype=torch.int64, device=query.device)
    for start in range(0, n, TILE_KEYS):
        tile = _scores(key[start : start + TILE_KEYS], query_t, scores, block)
        found_values, found = _best_of_tile(*tile, k, per_block)
        # what is held comes first: it has the lower positions, and the sort is stable
        values = torch.cat((values, found_values), 1)
        positions = torch.cat((positions, found + start), 1)
        values, order = values.sort(dim=1, descending=True, stable=True)
        values, positions = values[:, :k], positions.gather(1, order[:, :k])
    return positions.to(torch.int32)


def _scores(key: Tensor, query_t: Tensor, out: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Scores of a tile, keys first so that blocks reduce over whole vectors, and block maxima.

    key [n, D], query_t [D, R] -> ([n_blocks, block, R], [n_blocks, R]); past the end: -inf.
    """
    n = key.shape[0]
    padded = n + -n % block
    out = out[:padded]
    out[n:] = -torch.inf
    blocks = out.view(-1, block, out.shape[1])
    maxima = out.new_empty(blocks.shape[0], out.shape[1])
    for start in range(0, n, PRODUCT_KEYS):
        stop = min(start + PRODUCT_KEYS, n)
        torch.mm(key[start:stop].to(out.dtype), query_t, out=out[start:stop])
        done = slice(start // block, -(-stop // block))
        torch.amax(blocks[done], dim=1, out=maxima[done])
    return blocks, maxima


def _best_of_tile(
    blocks: Tensor, maxima: Tensor, k: int, per_block: int
) -> tuple[Tensor, Tensor]:
    """The best k of a tile: values and columns [R, <=k], ascending by column.

    With per_block 1 only the first maximum of each block can be chosen (block_max).
    """
    n_blocks, block, n_rows = blocks.shape
    best = _largest(maxima.T, min(k, n_blocks))  # [R, k]
    offsets = torch.arange(block, device=best.device)
    columns = (best[:, :, None] * block + offsets).flatten(1)  # [R, k*block]
    candidates = blocks.view(-1, n_rows).gather(0, columns.T).T
    if per_block == 1:
        values, offset = candidates.unflatten(1, (-1, block)).max(-1)
        return values, best * block + offset
    chosen = _largest(candidates, min(k, candidates.shape[1]))
    return candidates.gather(1, chosen), columns.gather(1, chosen)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest scores of each row, ascending; equal scores: lower column first.

    `torch.topk` picks freely among equals. Only rows whose k-th score has equals outside the
    choice need the stable sort, and real scores hardly ever do.
    """
    values, columns = scores.topk(k, dim=1)
    if k < scores.shape[1]:
        tied = (scores >= values[:, -1:]).sum(1) > k
        rows = tied.nonzero()[:, 0]
        if rows.numel():
            order = scores[rows].sort(dim=1, descending=True, stable=True).indices
            columns = columns.index_copy(0, rows, order[:, :k])
    return columns.sort(1).values

"""Memory-bounded form of `topk_keys` in PyTorch: tiles of keys, a running best k per query.

Within a tile the block-max theorem holds the work down: the best k keys of a row lie in the k
blocks with the largest maxima (equal maxima: the lower block), so only k small blocks per row are
ever ordered.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from reattention_kernels.topk_keys.naive import BLOCK_MAX_KEYS

TILE_KEYS = 16384  # a multiple of every block size
TILE_ROWS = 256  # with TILE_KEYS: 16 MiB of float32 scores alive at a time
PRODUCT_KEYS = 2048  # keys per matrix product: what it writes is reduced while still in L2
EXACT_BLOCK_KEYS = 16

_WORKSPACES = threading.local()


def topk_keys_blockwise(query: Tensor, key: Tensor, k: int, mode: str = "exact") -> Tensor:
    """Same contract as `reattention_kernels.topk_keys`; extra memory does not grow with N."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    winners = torch.empty(b, h, t, k, dtype=torch.int32, device=query.device)
    # rows of one KV head together  # [B, Hkv, G*T, D]
    rows = query.reshape(b, kv_heads, h * t // kv_heads, d)
    out = winners.view(b, kv_heads, h * t // kv_heads, k)
    with exact_products(query.dtype):
        for row in range(b):
            for head in range(kv_heads):
                out[row, head] = _best_of_head(rows[row, head], key[row, head], k, mode)
    return winners


@contextmanager
def exact_products(dtype: torch.dtype) -> Iterator[None]:
    """Within: float32 matrix products that lose nothing of inputs that were `dtype`.

    bf16 values survive the conversion to bf16 that oneDNN's fast mode makes, and it still
    accumulates in float32: on CPUs with bf16 matrix units that is 3x faster, and exact.
    """
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    cuda: Any = torch.backends.cuda.matmul
    before = cpu.fp32_precision, cuda.fp32_precision
    cpu.fp32_precision = "bf16" if dtype == torch.bfloat16 else "ieee"
    cuda.fp32_precision = "ieee"  # never TF32
    try:
        yield
    finally:
        cpu.fp32_precision, cuda.fp32_precision = before


def _best_of_head(query: Tensor, key: Tensor, k: int, mode: str) -> Tensor:
    """query [R, D], key [N, D] -> int64 [R, k]."""
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    query_t = query.to(dtype).T.contiguous()  # [D, R]
    n, n_rows = key.shape[0], query.shape[0]
    block = BLOCK_MAX_KEYS if mode == "block_max" else EXACT_BLOCK_KEYS
    scores = _workspace(query_t)
    values = query_t.new_full((n_rows, k), -torch.inf)
    positions = torch.full((n_rows, k), -1, dtype=torch.int64, device=query.device)
    for start in range(0, n, TILE_KEYS):
        tile = key[start : start + TILE_KEYS].to(dtype)
        for first in range(0, n_rows, TILE_ROWS):
            part = slice(first, first + TILE_ROWS)
            blocks, maxima = _scores(tile, query_t[:, part], scores, block)
            found, columns = _best_of_tile(blocks, maxima, k, mode)
            _merge(values[part], positions[part], found, columns + start)
    return positions


def _workspace(like: Tensor) -> Tensor:
    """Room for a tile's scores, kept from call to call: fresh pages cost as much as the product."""
    place, room = (like.device, like.dtype), TILE_KEYS * TILE_ROWS
    held = _WORKSPACES.__dict__.setdefault("tiles", {})
    if place not in held or held[place].numel() < room:
        with torch.inference_mode(False):
            held[place] = torch.empty(room, dtype=like.dtype, device=like.device)
    return held[place]


def _merge(values: Tensor, positions: Tensor, found: Tensor, at: Tensor) -> None:
    """Take what a tile found into the best k held so far, in place; [R, k] each.

    What is held comes first: it has the lower positions, and the sort is stable.
    """
    k = values.shape[1]
    both = torch.cat((values, found), 1)
    best, order = both.sort(dim=1, descending=True, stable=True)
    values.copy_(best[:, :k])
    positions.copy_(torch.cat((positions, at), 1).gather(1, order[:, :k]))


def _scores(key: Tensor, query_t: Tensor, out: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Scores of a tile, keys first so that blocks reduce over whole vectors, and block maxima.

    key [n, D], query_t [D, R], out a workspace -> ([n_blocks, block, R], [n_blocks, R]); scores
    past the end are -inf.
    """
    n, n_rows = key.shape[0], query_t.shape[1]
    padded = n + -n % block
    out = out[: padded * n_rows].view(padded, n_rows)
    out[n:] = -torch.inf
    blocks = out.view(-1, block, n_rows)
    maxima = out.new_empty(blocks.shape[0], n_rows)
    for start in range(0, n, PRODUCT_KEYS):
        stop = min(start + PRODUCT_KEYS, n)
        torch.mm(key[start:stop], query_t, out=out[start:stop])
        done = slice(start // block, -(-stop // block))
        torch.amax(blocks[done], dim=1, out=maxima[done])
    return blocks, maxima


def _best_of_tile(blocks: Tensor, maxima: Tensor, k: int, mode: str) -> tuple[Tensor, Tensor]:
    """The best k of a tile: values and columns [R, <=k], ascending by column.

    In mode block_max only the first maximum of each block can be chosen.
    """
    n_blocks, block, n_rows = blocks.shape
    best = _largest(maxima.T, min(k, n_blocks))  # [R, k]
    offsets = torch.arange(block, device=best.device)
    columns = (best[:, :, None] * block + offsets).flatten(1)  # [R, k*block]
    candidates = blocks.view(-1, n_rows).gather(0, columns.T).T
    if mode == "block_max":
        values, offset = candidates.unflatten(1, (-1, block)).max(-1)
        return values, best * block + offset
    chosen = _largest(candidates, min(k, candidates.shape[1]))
    return candidates.gather(1, chosen), columns.gather(1, chosen)


def _largest(scores: Tensor, k: int) -> Tensor:
    """Columns of the k largest scores of each row, ascending; equal scores: lower column first.

    `torch.topk` picks freely among equals. Only rows whose k-th and next scores are equal need
    the stable sort, and real scores hardly ever do.
    """
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if k < scores.shape[1]:
        columns = columns[:, :k]
        rows = (values[:, k - 1] == values[:, k]).nonzero()[:, 0]
        if rows.numel():
            order = scores[rows].sort(dim=1, descending=True, stable=True).indices
            columns = columns.index_copy(0, rows, order[:, :k])
    return columns.sort(1).values

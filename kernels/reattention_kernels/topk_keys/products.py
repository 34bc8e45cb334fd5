"""Matrix products of a tile of keys with a part of the queries, and where they are kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

TILE_KEYS = 16384  # a multiple of every block size
TILE_ROWS = 256  # with TILE_KEYS: 16 MiB of float32 products alive at a time
PRODUCT_KEYS = 2048  # keys per matrix product: what it writes is reduced while still in L2

_WORKSPACES = threading.local()


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


def tile_products(key: Tensor, query_t: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Products of a tile, keys first so that blocks reduce over whole vectors, and block maxima.

    key [G, n, D], query_t [G, D, R] of G heads, n <= TILE_KEYS, G * R <= TILE_ROWS
    -> ([G, n_blocks, block, R], [G, n_blocks, R]), -inf past the end; the first is gone with the
    next call.
    """
    heads, n, _ = key.shape
    n_rows = query_t.shape[2]
    padded = n + -n % block
    out = _workspace(query_t)[: heads * padded * n_rows].view(heads, padded, n_rows)
    out[:, n:] = -torch.inf
    blocks = out.view(heads, -1, block, n_rows)
    maxima = out.new_empty(heads, blocks.shape[1], n_rows)
    for head in range(heads):
        for start in range(0, n, PRODUCT_KEYS):
            stop = min(start + PRODUCT_KEYS, n)
            torch.mm(key[head, start:stop], query_t[head], out=out[head, start:stop])
            done = slice(start // block, -(-stop // block))
            torch.amax(blocks[head, done], dim=1, out=maxima[head, done])
    return blocks, maxima


def _workspace(like: Tensor) -> Tensor:
    """Room for a tile's products, kept from call to call: fresh pages cost as much as they do."""
    place, room = (like.device, like.dtype), TILE_KEYS * TILE_ROWS
    held = _WORKSPACES.__dict__.setdefault("tiles", {})
    if place not in held or held[place].numel() < room:
        with torch.inference_mode(False):
            held[place] = torch.empty(room, dtype=like.dtype, device=like.device)
    return held[place]

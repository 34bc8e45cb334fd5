"""Reference form of `topk_keys`: every score at once, a stable sort. Slow, and plainly right."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.topk_keys.scores import pair_scores, score_dtype

BLOCK_MAX_KEYS = 128  # keys per block of the released approximation
PRODUCTS = 1 << 24  # of single channels, alive at a time


def topk_keys_naive(query: Tensor, key: Tensor, k: int, mode: str = "exact") -> Tensor:
    """Same contract as `reattention_kernels.topk_keys`; holds all [B, H, T, N] scores."""
    scores = scores_of(query, key)  # [B, H, T, N]
    n = key.shape[2]
    if mode == "block_max":
        scores = _keep_block_maxima(scores)
    order = scores.sort(dim=-1, descending=True, stable=True)
    winners = order.indices[..., :k].masked_fill(order.values[..., :k] == -torch.inf, -1)
    if n < k:
        winners = torch.nn.functional.pad(winners, (0, k - n), value=-1)
    return winners.to(torch.int32)


def scores_of(query: Tensor, key: Tensor) -> Tensor:
    """`pair_scores` of every query with every key of its KV head: [B, H, T, N]."""
    b, h, t, _ = query.shape
    grouped = query.unflatten(1, (key.shape[1], -1))  # [B, Hkv, G, T, D]
    scores = query.new_empty(*grouped.shape[:-1], key.shape[2], dtype=score_dtype(query.dtype))
    step = max(1, PRODUCTS // max(1, query.numel()))
    for start in range(0, key.shape[2], step):
        some = key[:, :, None, None, start : start + step]  # [B, Hkv, 1, 1, n, D]
        scores[..., start : start + step] = pair_scores(grouped[:, :, :, :, None], some)
    return scores.view(b, h, t, key.shape[2])


def _keep_block_maxima(scores: Tensor) -> Tensor:
    """-inf everywhere but at the first maximum of each block of 128 keys."""
    n = scores.shape[-1]
    padded = torch.nn.functional.pad(scores, (0, -n % BLOCK_MAX_KEYS), value=-torch.inf)
    blocks = padded.unflatten(-1, (-1, BLOCK_MAX_KEYS))
    keep = torch.zeros_like(blocks, dtype=torch.bool)
    keep.scatter_(-1, blocks.argmax(-1, keepdim=True), True)
    return blocks.masked_fill(~keep, -torch.inf).flatten(-2)[..., :n]

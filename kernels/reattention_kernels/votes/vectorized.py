"""PyTorch form of `select_positions`: histograms and one sort, any device."""

from __future__ import annotations

import torch
from torch import Tensor


def select_positions_vectorized(
    winners: Tensor, n: int, max_spans: int, span_size: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Same contract as `reattention_kernels.select_positions`."""
    b, device = winners.shape[0], winners.device
    flat = winners.reshape(b, -1).long()
    # slot n collects the -1 of queries that found fewer than k keys
    votes = torch.zeros(b, n + 1, dtype=torch.int64, device=device)
    counted = torch.ones_like(flat) if weights is None else weights.reshape(b, -1).long()
    votes.scatter_add_(1, flat.where(flat >= 0, n), counted)
    votes = votes[:, :n]
    # one integer orders by votes, then by lower position
    rank = votes * n + torch.arange(n - 1, -1, -1, device=device)
    best = rank.topk(min(max_spans, n), dim=1).indices  # [B, S]
    voted = votes.gather(1, best) > 0
    spans = best[..., None] + torch.arange(span_size, device=device) - span_size // 2
    inside = voted[..., None] & (spans >= 0) & (spans < n)
    chosen = torch.zeros(b, n + 1, dtype=torch.bool, device=device)
    chosen.scatter_(1, spans.where(inside, n).flatten(1), True)
    chosen = chosen[:, :n]
    count = chosen.sum(1, dtype=torch.int32)
    width = max_spans * span_size
    positions = torch.full((b, width + 1), -1, dtype=torch.int32, device=device)
    slot = chosen.cumsum(1) - 1
    ids = torch.arange(n, dtype=torch.int32, device=device).expand(b, n)
    positions.scatter_(1, slot.where(chosen, width), ids)
    positions[:, width] = -1
    return positions[:, :width].contiguous(), count


def widen(numbers: Tensor, span_size: int, n: int | Tensor) -> tuple[Tensor, Tensor]:
    """What `select_positions` gives, of spans on a grid; waits for nothing.

    numbers: int32 [B, S], ascending, of the spans, -1 behind the last; n: positions that exist,
    int32 [1] or [B] where the device knows.
    """
    places = torch.arange(span_size, dtype=torch.int32, device=numbers.device)
    at = numbers[..., None] * span_size + places
    limit = n.view(-1, 1, 1) if isinstance(n, Tensor) else n
    inside = (numbers >= 0)[..., None] & (at < limit)
    return at.where(inside, -1).flatten(1), inside.sum((1, 2), dtype=torch.int32)

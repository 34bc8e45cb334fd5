"""Reference form of `select_positions`: one Python step per rule of the method."""

from __future__ import annotations

import torch
from torch import Tensor


def select_positions_naive(
    winners: Tensor,
    n: int,
    max_spans: int,
    span_size: int,
    weights: Tensor | None = None,
    grid: bool = False,
) -> tuple[Tensor, Tensor]:
    """Same contract as `reattention_kernels.select_positions`."""
    weights = torch.ones_like(winners) if weights is None else weights
    rows = [
        _row(row.flatten().tolist(), own.flatten().tolist(), n, max_spans, span_size, grid)
        for row, own in zip(winners, weights, strict=True)
    ]
    width = max_spans * span_size
    positions = torch.full((len(rows), width), -1, dtype=torch.int32)
    for i, row in enumerate(rows):
        positions[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    count = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    return positions.to(winners.device), count.to(winners.device)


def _row(
    winners: list[int], weights: list[int], n: int, max_spans: int, span_size: int, grid: bool
) -> list[int]:
    votes: dict[int, int] = {}
    for position, weight in zip(winners, weights, strict=True):
        if position >= 0:
            named = position // span_size if grid else position
            votes[named] = votes.get(named, 0) + weight
    kept = sorted(votes, key=lambda named: (-votes[named], named))[:max_spans]
    chosen: set[int] = set()
    for named in kept:
        start = named * span_size if grid else named - span_size // 2
        chosen.update(j for j in range(start, start + span_size) if 0 <= j < n)
    return sorted(chosen)

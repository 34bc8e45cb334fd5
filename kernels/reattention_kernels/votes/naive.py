"""Reference form of `select_positions`: one Python step per rule of the method."""

from __future__ import annotations

import torch
from torch import Tensor


def select_positions_naive(
    winners: Tensor, n: int, max_spans: int, span_size: int
) -> tuple[Tensor, Tensor]:
    """Same contract as `reattention_kernels.select_positions`."""
    rows = [_row(row.flatten().tolist(), n, max_spans, span_size) for row in winners]
    width = max_spans * span_size
    positions = torch.full((len(rows), width), -1, dtype=torch.int32)
    for i, row in enumerate(rows):
        positions[i, : len(row)] = torch.tensor(row, dtype=torch.int32)
    count = torch.tensor([len(row) for row in rows], dtype=torch.int32)
    return positions.to(winners.device), count.to(winners.device)


def _row(winners: list[int], n: int, max_spans: int, span_size: int) -> list[int]:
    votes: dict[int, int] = {}
    for position in winners:
        if position >= 0:
            votes[position] = votes.get(position, 0) + 1
    kept = sorted(votes, key=lambda position: (-votes[position], position))[:max_spans]
    chosen: set[int] = set()
    for position in kept:
        start = position - span_size // 2
        chosen.update(j for j in range(start, start + span_size) if 0 <= j < n)
    return sorted(chosen)

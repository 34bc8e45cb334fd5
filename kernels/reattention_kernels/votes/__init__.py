"""From the winners of every query to the positions of a layer's view: `select_positions`."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import use_triton
from reattention_kernels.lengths import check_lengths, entry_lengths
from reattention_kernels.votes.naive import select_positions_naive
from reattention_kernels.votes.vectorized import select_positions_vectorized, widen
from reattention_kernels.votes.weights import KINDS, MAX_WEIGHT, vote_weights

MAX_SPANS = 1024

__all__ = [
    "KINDS",
    "MAX_WEIGHT",
    "select_positions",
    "select_positions_naive",
    "select_positions_vectorized",
    "vote_weights",
]


def select_positions(
    winners: Tensor,
    n: int,
    max_spans: int,
    span_size: int,
    device_length: Tensor | None = None,
    less: int = 0,
    weights: Tensor | None = None,
    grid: bool = False,
) -> tuple[Tensor, Tensor]:
    """Vote over all heads and queries, keep the best positions, widen them to spans, unite them.

    ReAttention (arXiv 2407.15176), section 3: the `max_spans` positions with the most votes (at
    least one; equal votes: lower position first); position p brings p - span_size // 2 up to
    span_size positions, cut at the ends of [0, n), never shifted.

    Args:
        winners: int [B, H, T, k] positions in [0, n) as `topk_keys` gives them; -1 is no vote.
        n: number of positions that could be chosen, at least 1.
        max_spans: positions kept per batch row.
        span_size: keys per span.
        device_length: int32 [1], or [B] for each entry: only the first so many positions exist;
            for calls that a CUDA graph repeats, and for chunks that see different parts of a row.
        less: so many less than device_length says, so that one number serves a row and its middle.
        weights: int32 like winners, what each vote counts, 1 to MAX_WEIGHT; None: 1.
        grid: spans begin at multiples of span_size instead, and those with the most votes for
            their positions are kept.

    Returns:
        positions int32 [B, max_spans * span_size], ascending, -1 behind the last one;
        count int32 [B], how many are real. Both on the device of `winners`.

    Raises:
        ValueError: device_length is neither of the two.
    """
    check_lengths(device_length, winners.shape[0])
    if grid:
        numbers, _ = select_positions(
            winners // span_size, -(-n // span_size), max_spans, 1, weights=weights
        )
        return widen(numbers, span_size, n if device_length is None else device_length - less)
    refusal = None
    if max_spans > MAX_SPANS:
        refusal = f"the vote kernel keeps at most {MAX_SPANS} spans, found {max_spans}"
    if use_triton(winners, refusal):
        from reattention_kernels.votes.triton import select_positions_triton

        with torch.cuda.device_of(winners):
            return select_positions_triton(
                winners, n, max_spans, span_size, device_length, less, weights
            )
    if device_length is None:
        return select_positions_vectorized(winners, n, max_spans, span_size, weights)
    width = max_spans * span_size
    positions = torch.empty(winners.shape[0], width, dtype=torch.int32, device=winners.device)
    count = torch.empty(winners.shape[0], dtype=torch.int32, device=winners.device)
    for entry, length in enumerate(entry_lengths(device_length, winners.shape[0], less)):
        some = slice(entry, entry + 1)
        positions[some], count[some] = select_positions_vectorized(
            winners[some], length, max_spans, span_size, None if weights is None else weights[some]
        )
    return positions, count

"""What a query's vote for each of its winners counts, where not all votes count alike."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.topk_keys.scores import score_dtype

KINDS = ("rank", "margin", "mass")
MAX_WEIGHT = 255  # 128 such votes for one position still fit into 16 bits (votes/triton.py)
PAIR_BYTES = 64 << 20  # of the winners' keys, alive at a time


def vote_weights(query: Tensor, key: Tensor, winners: Tensor, kind: str) -> Tensor:
    """Whole numbers from 1 to MAX_WEIGHT, in proportion to a share in (0, 1].

    "rank": 1 / r for the winner of rank r (reciprocal rank). "mass": its part of a softmax over the
    query's winners. "margin": 1 - exp(-m), m by how much it scores above the best key that is no
    winner; 1 where there is no such key. Scores are q.k / sqrt(D), as attention has them before
    RoPE.

    Args:
        query: [B, H, T, D], un-rotated.
        key: [B, Hkv, N, D], un-rotated; entries may share their storage.
        winners: int [B, H, T, k], best first, -1 for none; with "margin" one more than vote.
        kind: one of KINDS.

    Returns:
        int32 [B, H, T, k], with "margin" k - 1; of any value where a winner is -1.
    """
    if kind == "rank":
        ranks = torch.arange(1, winners.shape[3] + 1, device=winners.device)
        return (-(-MAX_WEIGHT // ranks)).to(torch.int32).expand(winners.shape)
    (b, h, t, d), k = query.shape, winners.shape[3]
    out = torch.empty(b, h, t, k - (kind == "margin"), dtype=torch.int32, device=query.device)
    step = max(1, PAIR_BYTES // (h * k * d * 4))
    for entry in range(b):  # a copy of the winners' keys outgrows no part
        for start in range(0, t, step):
            part = slice(start, start + step)
            scores = _scores(query[entry, :, part], key[entry], winners[entry, :, part])
            out[entry, :, part] = _whole(_shares(scores, kind))
    return out


def _scores(query: Tensor, key: Tensor, winners: Tensor) -> Tensor:
    """[H, T, D], [Hkv, N, D], [H, T, k] -> [H, T, k], -inf for none."""
    heads = torch.arange(len(key), device=key.device)[:, None]
    at = winners.long().clamp(min=0).reshape(len(key), -1)  # [Hkv, G * T * k]
    chosen = key[heads, at].unflatten(1, (-1, winners.shape[2]))  # [Hkv, G * T, k, D]
    exact = score_dtype(query.dtype)
    q = query.reshape(len(key), -1, 1, query.shape[2]).to(exact)
    scores = (q * chosen.to(exact)).sum(-1).reshape(winners.shape) * query.shape[2] ** -0.5
    return scores.masked_fill(winners < 0, -torch.inf)


def _shares(scores: Tensor, kind: str) -> Tensor:
    if kind == "mass":
        return scores.softmax(-1)
    return -torch.expm1(scores[..., -1:] - scores[..., :-1])


def _whole(shares: Tensor) -> Tensor:
    """Rounded up but for the last quarter, so that equal parts (1/2, 1/3, 1/4 .. of MAX_WEIGHT) are
    not where rounding of another processor decides."""
    whole = (shares * MAX_WEIGHT - 0.25).ceil().nan_to_num(1.0)
    return whole.clamp(1, MAX_WEIGHT).to(torch.int32)

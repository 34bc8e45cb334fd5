"""Reference form of `attend_causal`: whole score matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_causal_naive(
    query: Tensor, key: Tensor, value: Tensor, scale: float, lengths: Tensor | None = None
) -> Tensor:
    """Same contract as `reattention_kernels.causal.attend_causal`, in float32 or finer."""
    exact = torch.promote_types(query.dtype, torch.float32)
    group, t = query.shape[1] // key.shape[1], query.shape[2]
    rows = []
    for q, k, v, n in zip(query, key, value, host_lengths(key, lengths), strict=True):
        k, v = (x[:, :n].to(exact).repeat_interleave(group, 0) for x in (k, v))
        scores = (q.to(exact) @ k.transpose(1, 2)) * scale  # [H, T, n]
        places = torch.arange(n, device=q.device)
        weights = scores.masked_fill(places > places[n - t :, None], -torch.inf).softmax(-1)
        rows.append(weights @ v)
    return torch.stack(rows).to(query.dtype)


def host_lengths(key: Tensor, lengths: Tensor | None) -> list[int]:
    """How many keys each entry has; waits for the device."""
    b, n = key.shape[0], key.shape[2]
    if lengths is None:
        return [n] * b
    return [int(length) for length in lengths.expand(b)]

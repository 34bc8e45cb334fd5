"""Attention under a mask, of layers that see a sliding window: the model's own whatever the
method."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend_sliding(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int) -> Tensor:
    """Each query attends to itself and the window - 1 keys before it.

    query [H, T, D], at the last T of the n keys; key and value [Hkv, n, D] -> [H, T, D].
    """
    t = query.shape[1]
    n = min(key.shape[1], window + t - 1)  # no query sees further back
    place = torch.arange(n, device=query.device)
    distance = place[n - t :, None] - place  # [T, n]
    mask = (distance >= 0) & (distance < window)
    return attend_masked(query, key[:, -n:], value[:, -n:], scale, mask)


def attend_masked(query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> Tensor:
    """query [H, T, D], key and value [Hkv, n, D], mask bool [T, n] (True: seen) -> [H, T, D]."""
    h, t, d = query.shape
    group = h // key.shape[0]
    q = query.reshape(-1, group, t, d)
    k, v = (x[:, None].expand(-1, group, -1, -1) for x in (key, value))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).reshape(h, t, d)

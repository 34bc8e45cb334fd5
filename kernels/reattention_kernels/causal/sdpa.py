"""PyTorch's own attention: the form of CPUs, and of GPUs before Hopper."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from reattention_kernels.causal.naive import host_lengths


class LowerRightMask:
    """An additive causal mask, made once: its lower right corner serves every smaller call."""

    def __init__(self) -> None:
        self._held: Tensor | None = None

    def corner(self, t: int, n: int, like: Tensor) -> Tensor:
        """[t, n] of like's dtype."""
        held = self._held
        if held is None or held.dtype != like.dtype or held.shape[0] < t or held.shape[1] < n:
            rows, columns = t, n + n // 4
            held = like.new_full((rows, columns), -torch.inf).triu_(columns - rows + 1)
            self._held = held
        return held[held.shape[0] - t :, held.shape[1] - n :]


def attend_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    mask: LowerRightMask | None = None,
) -> Tensor:
    """Same contract as `reattention_kernels.causal.attend_causal`; `lengths` wait for the host."""
    mask = LowerRightMask() if mask is None else mask
    for entry, n in enumerate(host_lengths(key, lengths)):
        q, k, v = query[entry], key[entry, :, :n], value[entry, :, :n]
        out[entry].copy_(_attend_row(q, k, v, scale, mask))
    return out


def _attend_row(
    query: Tensor, key: Tensor, value: Tensor, scale: float, held: LowerRightMask
) -> Tensor:
    """query [H, T, D], key and value [Hkv, n, D] -> [H, T, D]."""
    (h, t, d), (kv_heads, n, _) = query.shape, key.shape
    q = query.reshape(kv_heads, h // kv_heads, t, d)
    k, v = (x[:, None].expand(-1, h // kv_heads, -1, -1) for x in (key, value))
    mask: Any
    if t == 1:
        mask = None
    elif query.is_cuda:
        mask = causal_lower_right(t, n)
    else:
        mask = held.corner(t, n, query)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).reshape(h, t, d)

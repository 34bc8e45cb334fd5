"""Attention over keys that come in parts, joined by the logarithms of their sums."""

from __future__ import annotations

import torch
from torch import Tensor

ALIGNMENT = 16  # elements from one row of a mask to the next, as the fused kernel wants it
NOTHING = -1e30  # the logarithm of no keys: finite, so that two of them have a difference


class JoinedParts:
    """The answer of queries [H, T, D] over all parts added so far, one softmax over them all."""

    def __init__(self, query: Tensor) -> None:
        exact = torch.promote_types(query.dtype, torch.float32)
        self._out = torch.zeros(query.shape, dtype=exact, device=query.device)
        self._log = torch.full(query.shape[:2], NOTHING, dtype=exact, device=query.device)

    def add(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor) -> None:
        """query [H, T, D], key and value [Hkv, n, D], mask bool [T, n] (True: seen).

        The queries may be others in every part. Memory: the mask, 16 bit or more of each of its
        entries, and nothing as large as all scores where a fused kernel serves.
        """
        (h, t, d), kv_heads = query.shape, key.shape[0]
        q = query.reshape(kv_heads, h // kv_heads, t, d)
        out, log = _attend(q, key, value, scale, mask)
        seen = mask.any(-1)  # [T]
        out = out.reshape(h, t, d).to(self._out.dtype)
        out = torch.where(seen[:, None], out, 0.0)
        log = torch.where(seen, log.reshape(h, t).to(self._log.dtype), NOTHING)
        both = torch.logaddexp(self._log, log)
        shares = ((part - both).exp()[..., None] for part in (self._log, log))
        self._out = self._out * next(shares) + out * next(shares)
        self._log = both

    def answer(self) -> Tensor:
        """[H, T, D], in float32 or finer; 0 where a query saw nothing."""
        return self._out


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """query [Hkv, G, T, D], the others as above -> [Hkv, G, T, D] and the logs [Hkv, G, T], both of
    any value where a query sees nothing."""
    t, n = mask.shape
    group = query.shape[1]
    if query.is_cuda and (query.dtype == torch.float64 or query.shape[-1] % 8):
        return _attend_plainly(query, key, value, scale, mask)
    k, v = (x[:, None].expand(-1, group, -1, -1) for x in (key, value))
    room = -(-n // ALIGNMENT) * ALIGNMENT
    bias = query.new_zeros(t, room)[:, :n].masked_fill_(~mask, -torch.inf)
    bias = bias.expand(*query.shape[:2], t, n)
    aten = torch.ops.aten
    if query.is_cuda:
        out, log = aten._scaled_dot_product_efficient_attention(
            query, k, v, bias, True, 0.0, False, scale=scale
        )[:2]
        return out, log[..., :t]
    if query.device.type == "cpu":
        found: tuple[Tensor, Tensor] = aten._scaled_dot_product_flash_attention_for_cpu(
            query, k, v, 0.0, False, attn_mask=bias, scale=scale
        )
        return found
    return _attend_plainly(query, key, value, scale, mask)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Where no fused kernel gives the logarithms: all scores of a part, in float32 or finer."""
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(exact) for x in (query, key[:, None], value[:, None]))
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~mask, NOTHING)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)

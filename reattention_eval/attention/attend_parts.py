"""Attention over keys that come in parts, joined by the logarithms of their sums."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

ALIGNMENT = 16  # elements from one row of a mask to the next, as the fused kernel wants it
NOTHING = -1e30  # the logarithm of no keys: finite, so that two of them have a difference


class BandMask:
    """Which keys each query of a part sees: bool [T, n]. What follows from it is made once, also
    where many layers attend by it."""

    def __init__(self, seen: Tensor) -> None:
        self.seen = seen
        self._bias: Tensor | None = None

    @cached_property
    def some(self) -> Tensor:
        """Queries that see a key: bool [T]."""
        return self.seen.any(-1)

    def bias(self, like: Tensor) -> Tensor:
        """Of like's dtype, [T, n]: added to scores."""
        if self._bias is None or self._bias.dtype != like.dtype:
            t, n = self.seen.shape
            room = -(-n // ALIGNMENT) * ALIGNMENT
            self._bias = like.new_zeros(t, room)[:, :n].masked_fill_(~self.seen, -torch.inf)
        return self._bias


class JoinedParts:
    """The answer of queries [H, T, D] over all parts added so far, one softmax over them all."""

    def __init__(self, query: Tensor) -> None:
        self._exact = torch.promote_types(query.dtype, torch.float32)
        self._parts: tuple[Tensor, Tensor] | None = None  # the answer and its logarithms

    def add(self, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: BandMask) -> None:
        """query [H, T, D], key and value [Hkv, n, D], mask of [T, n].

        The queries may be others in every part. Memory: the mask, 16 bit or more of each of its
        entries, and nothing as large as all scores where a fused kernel serves.
        """
        (h, t, d), kv_heads = query.shape, key.shape[0]
        q = query.reshape(kv_heads, h // kv_heads, t, d)
        out, log = _attend(q, key, value, scale, mask)
        out = torch.where(mask.some[:, None], out.reshape(h, t, d).to(self._exact), 0.0)
        log = torch.where(mask.some, log.reshape(h, t).to(self._exact), NOTHING)
        if self._parts is not None:
            before, log_before = self._parts
            # where neither saw anything both are 0
            out = torch.lerp(before, out, (log - log_before).sigmoid()[..., None])
            log = torch.logaddexp(log_before, log)
        self._parts = out, log

    def answer(self) -> Tensor:
        """[H, T, D], in float32 or finer; 0 where a query saw nothing."""
        assert self._parts is not None
        return self._parts[0]


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: BandMask
) -> tuple[Tensor, Tensor]:
    """query [Hkv, G, T, D], the others as above -> [Hkv, G, T, D] and the logs [Hkv, G, T], both of
    any value where a query sees nothing."""
    group, t = query.shape[1:3]
    if query.is_cuda and (query.dtype == torch.float64 or query.shape[-1] % 8):
        return _attend_plainly(query, key, value, scale, mask)
    k, v = (x[:, None].expand(-1, group, -1, -1) for x in (key, value))
    bias = mask.bias(query).expand(*query.shape[:2], t, key.shape[1])
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
    query: Tensor, key: Tensor, value: Tensor, scale: float, mask: BandMask
) -> tuple[Tensor, Tensor]:
    """Where no fused kernel gives the logarithms: all scores of a part, in float32 or finer."""
    exact = torch.promote_types(query.dtype, torch.float32)
    q, k, v = (x.to(exact) for x in (query, key[:, None], value[:, None]))
    scores = (q @ k.transpose(2, 3) * scale).masked_fill(~mask.seen, NOTHING)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)

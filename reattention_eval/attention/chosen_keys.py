"""Keys chosen for each query head by itself, attended at their own positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError
from reattention_kernels.topk_keys.products import exact_products

SCORE_BYTES = 32 << 20  # of one tensor of scores; choosing among them holds about ten such
KEYS = 65536  # turned to the scores' dtype at a time

Keep = Callable[[Tensor], Tensor]


class PositionsView(NamedTuple):
    """What each query head of the chunk's only query attends to.

    positions: int64 [H, n], 1 <= n, no position twice for a head.
    """

    positions: Tensor

    def check(self, name: str, row: RowCache, query: Tensor) -> None:
        """Raise ConfigError, naming the method, for a view that is not as said above.

        Shapes always; values where reading them does not wait for a device.
        """
        problem = self._problem(row.length, query)
        if problem:
            raise ConfigError(
                f"{name}: the view of layer {row.layer} {problem} "
                "(see reattention_eval.attention.PositionsView)."
            )

    def _problem(self, length: int, query: Tensor) -> str | None:
        at, (heads, tokens, _) = self.positions, query.shape
        if tokens != 1:
            return f"gives positions for a chunk of {tokens} queries, not of one"
        n = at.shape[-1] if at.ndim == 2 else 0
        if at.dtype != torch.int64 or list(at.shape) != [heads, n] or n < 1:
            return f"has positions {at.dtype} {list(at.shape)}, not int64 [{heads}, n]"
        if at.device.type == "cpu":
            ordered = at.sort(-1).values
            if int(ordered.min()) < 0 or int(ordered.max()) >= length:
                return f"has positions outside 0..{length - 1}"
            if bool((ordered.diff(dim=-1) == 0).any()):
                return "has a position twice"
        return None


@dataclass(frozen=True)
class ScoredView:
    """What each query attends to, told from its own scores of all keys.

    keep: of scores [G, t, n], some heads' and queries', -inf at keys behind the query, float32 or
        finer: bool of that shape, True where the key is attended; at least one for each query.
    """

    keep: Keep


def attend_scored(
    query: Tensor, row: RowCache, scale: float, keep: Keep, out: Tensor
) -> tuple[Tensor, Tensor]:
    """query [H, T, D], rotated, the last T of the row's tokens -> out [H, T, D].

    One softmax over what `keep` keeps of the scores scale * q.k. Scores are made for a KV head's
    query heads and as many queries at a time as SCORE_BYTES allow, products exact in float32.

    Returns:
        out, and float64 [T]: keys that each query attended to, a mean over the heads.
    """
    (h, t, _), (kv_heads, n, _) = query.shape, row.key.shape
    group, exact = h // kv_heads, torch.promote_types(query.dtype, torch.float32)
    attended = torch.zeros(t, dtype=torch.float64, device=query.device)
    most = max(1, SCORE_BYTES // (group * n * exact.itemsize))
    places = torch.arange(n, device=query.device)
    for head in range(kv_heads):
        part = slice(head * group, (head + 1) * group)
        for first in range(0, t, most):
            some = slice(first, min(first + most, t))
            seen = n - t + some.stop  # no query of these sees further
            at = places[n - t + first : seen]
            q = query[part, some].to(exact).flatten(0, 1)  # [G * t', D]
            with exact_products(query.dtype):
                scores = _products(q, row.key[head, :seen])
            scores = scores.unflatten(0, (group, -1)).mul_(scale)
            scores.masked_fill_(places[:seen] > at[:, None], -torch.inf)
            kept = keep(scores)
            attended[some] += kept.sum((0, 2)) / h
            weights = scores.masked_fill_(~kept, -torch.inf).softmax(-1)
            with exact_products(exact):  # weights are of no smaller dtype
                answer = _weighted(weights.flatten(0, 1), row.value[head, :seen])
            out[part, some] = answer.unflatten(0, (group, -1)).to(out.dtype)
    return out, attended


def _products(query: Tensor, key: Tensor) -> Tensor:
    """[R, D] and [n, D] -> [R, n] of query's dtype, a part of the keys at a time."""
    out = query.new_empty(len(query), len(key))
    for start in range(0, len(key), KEYS):
        part = key[start : start + KEYS].to(query.dtype)
        torch.mm(query, part.T, out=out[:, start : start + KEYS])
    return out


def _weighted(weights: Tensor, value: Tensor) -> Tensor:
    """[R, n] and [n, D] -> [R, D] of weights' dtype, a part of the values at a time."""
    out = weights.new_zeros(len(weights), value.shape[1])
    for start in range(0, len(value), KEYS):
        part = value[start : start + KEYS].to(weights.dtype)
        out.addmm_(weights[:, start : start + KEYS], part)
    return out


def gathered(row: RowCache, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values at positions [H, n], for each query head its own: twice [H, n, D]."""
    kv_heads = row.key.shape[0]
    of_kv_head = positions.reshape(kv_heads, -1)  # [Hkv, G * n]
    key, value = row.gather(of_kv_head)
    shape = (*positions.shape, key.shape[-1])
    return key.view(shape), value.view(shape)

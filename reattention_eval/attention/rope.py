"""RoPE of a view: positions 0..n-1 in view order, with the model's own rotary module."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

Rotate = Callable[..., tuple[Tensor, Tensor]]
GROWING = ("dynamic", "longrope")  # their frequencies depend on the length in use


class IdentityRotary(nn.Module):
    """Stands in for a model's rotary module: cos 1 and sin 0 leave query and key as projected."""

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.rotary_dim = 2 * original.inv_freq.shape[-1]  # type: ignore[union-attr,index]

    def forward(self, x: Tensor, position_ids: Tensor, *args: object) -> tuple[Tensor, Tensor]:
        shape = (*position_ids.shape, self.rotary_dim)  # [B, T, rotary_dim]
        return x.new_ones(1).expand(shape), x.new_zeros(1).expand(shape)


class ViewRope:
    """Rotates queries and keys by their place in the view.

    Args:
        rotary: the model's rotary module; copied, so that scaling which adapts to the length in
            use (dynamic NTK, longrope) leaves no trace on the model.
        rotate: the `apply_rotary_pos_emb` of the model's own file, so that every layout of the
            rotated dimensions is served.
    """

    def __init__(self, rotary: nn.Module, rotate: Rotate) -> None:
        self._rotary = copy.deepcopy(rotary)
        self._rotate = rotate
        self._grows = getattr(rotary, "rope_type", "default") in GROWING
        self._half_split = not self._grows and _is_half_split(rotate)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def device_tables(self, n: int, like: Tensor) -> tuple[Tensor, Tensor] | None:
        """cos and sin [>= n, D] for kernels that rotate by themselves.

        None where they could not: frequencies that depend on the length in use, partly rotated
        heads, pairs that are not (i, i + D/2).
        """
        if not self._half_split:
            return None
        cos, sin = self._positions(n, like)
        return (cos[0], sin[0]) if cos.shape[2] == like.shape[-1] else None

    def rotate_view(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """query [H, T, D] at the last T positions, key [Hkv, n, D] at 0..n-1."""
        t, n = query.shape[1], key.shape[1]
        cos, sin = self._positions(n, key)
        if t == n:
            return self._both(query, key, cos, sin)
        return (
            self._one(query, cos[:, n - t : n], sin[:, n - t : n]),
            self._one(key, cos, sin),
        )

    def rotate_at(self, query: Tensor, key: Tensor, start: int) -> tuple[Tensor, Tensor]:
        """query [H, T, D] and key [Hkv, T, D], both at positions start..start+T-1."""
        positions = torch.arange(start, start + key.shape[1], device=key.device)[None]
        return self._both(query, key, *self._rotary(key, positions))

    def _both(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        query, key = self._rotate(query[None], key[None], cos, sin)
        return query[0], key[0]

    def _one(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self._rotate(x[None], x[None, :0], cos, sin)[0][0]

    def _positions(self, n: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, n, rotary_dim] of positions 0..n-1."""
        if self._grows:
            return self._rotary(like, torch.arange(n, device=like.device)[None])
        place = (like.device, like.dtype)
        table = self._tables.get(place)
        if table is None or table[0].shape[1] < n:
            room = n + n // 4  # grows by quarters, not at every step
            table = self._rotary(like, torch.arange(room, device=like.device)[None])
            self._tables[place] = table
        return table[0][:, :n], table[1][:, :n]


def _is_half_split(rotate: Rotate) -> bool:
    """Whether `rotate` turns the pairs (i, i + D/2) of a head: tried on eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    x, angle = (torch.randn(1, 1, 3, d, generator=generator) for d in (8, 4))
    cos, sin = (torch.cat((part, part), -1)[0] for part in (angle.cos(), angle.sin()))
    low, high = x.chunk(2, -1)
    expected = x * cos + torch.cat((-high, low), -1) * sin
    return torch.allclose(rotate(x, x, cos, sin)[0], expected)

"""RoPE of a view: positions 0..n-1 in view order, with the model's own rotary module."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from reattention_kernels.rotation import rotate, rotate_naive, rotation_refusal

Rotate = Callable[..., tuple[Tensor, Tensor]]
Tables = tuple[Tensor, Tensor]  # cos and sin, [1, n, rotary_dim]


def is_rotary(module: nn.Module) -> bool:
    """Whether a module holds RoPE frequencies of its own."""
    return any(name.endswith("inv_freq") for name, _ in module.named_buffers(recurse=False))


class IdentityRotary(nn.Module):
    """Stands in for a model's rotary module: cos 1 and sin 0 leave query and key as projected.

    Args:
        dims: the last dimension of cos and sin, by the layer type that the module is told (None
            where it is told none).
    """

    def __init__(self, dims: Mapping[str | None, int]) -> None:
        super().__init__()
        self._dims = dict(dims)

    def forward(self, x: Tensor, position_ids: Tensor, layer_type: str | None = None) -> Tables:
        shape = (*position_ids.shape[-2:], self._dims[layer_type])  # [B, T, rotary_dim]
        return x.new_ones(1).expand(shape), x.new_zeros(1).expand(shape)


def rotate_half_split(
    query: Tensor, key: Tensor, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor]:
    """The pairs (i, i + D/2) rotated, as Llama does: query [B, H, T, D], cos [1, T, D]."""

    def rotated(x: Tensor) -> Tensor:
        low, high = x.chunk(2, -1)
        return x * cos[:, None] + torch.cat((-high, low), -1) * sin[:, None]

    return rotated(query), rotated(key)


def rotate_part(rotate: Rotate) -> Rotate:
    """`rotate` for heads of which only the first dimensions are rotated, as many as cos has."""

    def rotated(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        dim = cos.shape[-1]
        q, k = rotate(query[..., :dim], key[..., :dim], cos, sin)
        return torch.cat((q, query[..., dim:]), -1), torch.cat((k, key[..., dim:]), -1)

    return rotated


class ViewRope:
    """Rotates queries and keys by their place in the view.

    Two kinds of scaling depend on the length in use, and the whole view gets the frequencies of
    one length: dynamic NTK those of the trained window up to it and of the length itself beyond;
    longrope its short factors up to the original window and its long ones beyond. Which length
    that is, the caller says; nothing of an earlier, longer prompt stays behind, unlike in the
    module itself.

    Args:
        rotary: the model's rotary module; copied, so that nothing here leaves a trace on the model.
        rotate: the `apply_rotary_pos_emb` of the model's own file, so that every layout of the
            rotated dimensions is served.
        layer_type: for a module that serves several types of layers.
    """

    def __init__(self, rotary: nn.Module, rotate: Rotate, layer_type: str | None = None) -> None:
        self._original = copy.deepcopy(rotary)
        vars(self._original).pop("forward", None)  # a wrapper that moves results to one device
        self._copies: dict[torch.device, nn.Module] = {}
        self._rotate = rotate
        self._layer_type = () if layer_type is None else (layer_type,)
        self._kind, self._limit = _length_rule(rotary, layer_type)
        self._half_split = _is_half_split(rotate)
        self._same_bits = self._half_split and _rounds_each_step(rotate)
        self._tables: dict[Any, tuple[int, Tables]] = {}  # by place: the regime, its tables
        self._last: tuple[Any, Tables] | None = None

    def regime(self, length: int) -> int:
        """Lengths of one regime share their frequencies."""
        if self._kind == "dynamic":
            return length if length > self._limit else 0
        return int(self._kind == "longrope" and length > self._limit)

    def table_kind(self, n: int, length: int) -> tuple[int, int]:
        """Tables of n places with the frequencies of `length` have equal bits where this is equal:
        how many of their positions are below 0, and the regime."""
        return max(0, n - length) if self._kind else 0, self.regime(length)

    def samples(self) -> list[float]:
        """Cosines and sines of position 1, under the frequencies of a short prompt and of one
        beyond the length where they change: what tells this RoPE from another, up to rounding."""
        like = torch.zeros(1)
        lengths = (2, self._limit + 1) if self._kind else (2,)
        tables = [table for n in lengths for table in self._angles(0, 2, n, like)]
        return [value for table in tables for value in table[0, 1].tolist()]

    def device_tables(
        self, low: int, high: int, like: Tensor, length: int = 0
    ) -> tuple[Tensor, Tensor] | None:
        """cos and sin [>= high, D] for kernels that rotate a view of low..high keys themselves.

        The frequencies are those of max(view, length) tokens. None where kernels could not:
        frequencies that depend on which view it is, partly rotated heads, pairs that are not
        (i, i + D/2).
        """
        low, most = max(low, length), max(high, length)
        if not self._half_split or self.regime(low) != self.regime(most):
            return None
        cos, sin = self._table(high, most, like)
        return (cos[0], sin[0]) if cos.shape[2] == like.shape[-1] else None

    @cached_property
    def alike(self) -> bool:
        """Whether both halves of a table's rows are the same, as they are in almost every model.
        Tried on a CPU; False where it cannot be."""
        try:
            tables = self._angles(1, 4, 4, torch.zeros(1))
        except RuntimeError:
            return False
        return all(torch.equal(*table.chunk(2, -1)) for table in tables)

    def held_tables(self) -> list[Tensor]:
        """The tables made so far."""
        return [table for _, tables in self._tables.values() for table in tables]

    def rotate_view(self, query: Tensor, key: Tensor, length: int = 0) -> tuple[Tensor, Tensor]:
        """query [H, T, D] at the last T positions, key [Hkv, n, D] at 0..n-1.

        The frequencies are those of max(n, length) tokens.
        """
        t, n = query.shape[1], key.shape[1]
        cos, sin = (x[:, :n] for x in self._table(n, max(n, length), key))
        if t == n:
            return self._both(query, key, cos, sin)
        return (
            self._one(query, cos[:, n - t : n], sin[:, n - t : n]),
            self._one(key, cos, sin),
        )

    def rotate_places(
        self,
        query: Tensor,
        key: Tensor,
        places: Tensor,
        query_places: Tensor,
        extent: int,
        length: int = 0,
        reach: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """query [H, T, D] at `query_places` [T], key [Hkv, n, D] at `places` [n] or [Hkv, n].

        All places lie below `extent`; the frequencies are those of max(extent, length) tokens, or
        of max(reach, length) where no key is `reach` or more places before a query.
        """
        of_keys, of_queries = (
            self.tables_at(at, key, extent, length, reach) for at in (places, query_places)
        )
        query = self.rotate_by(query, of_queries)
        if places.ndim == 1:
            return query, self.rotate_by(key, of_keys)
        by_head = key[:, None]  # each KV head as a batch entry of its own: [Hkv, 1, n, D]
        rotated, _ = self._rotate(by_head, by_head[:, :0], *(table[0] for table in of_keys))
        return query, rotated[:, 0]

    def tables_at(
        self, places: Tensor, like: Tensor, extent: int, length: int = 0, reach: int | None = None
    ) -> Tables:
        """Tables for `rotate_by` at `places`, [n] or [Hkv, n]; else as for `rotate_places`."""
        cos, sin = (x[0] for x in self._table(extent, max(reach or extent, length), like))
        return cos[places][None], sin[places][None]

    def rotate_by(self, x: Tensor, tables: Tables) -> Tensor:
        """x [H, n, D] by tables [1, n, rotary_dim]."""
        return self._one(x, *tables)

    def rotate_at(
        self, query: Tensor, key: Tensor, start: int, length: int = 0
    ) -> tuple[Tensor, Tensor]:
        """query [H, T, D] and key [Hkv, T, D], both at positions start..start+T-1.

        The frequencies are those of max(start + T, length) tokens.
        """
        stop = start + key.shape[1]
        what = (start, stop, self.regime(max(stop, length)), key.device, key.dtype)
        if self._last is None or self._last[0] != what:  # the layers of a chunk ask alike
            self._last = what, self._angles(start, stop, max(stop, length), key)
        return self._both(query, key, *self._last[1])

    def rotate_slot(
        self, query: Tensor, key: Tensor, slot: Tensor, capacity: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """query [H, 1, D] and key [Hkv, 1, D], both at position `slot` (int64 [1]), which is
        below `capacity`.

        The frequencies are those of max(capacity, length) tokens.
        """
        tables = self._table(capacity, max(capacity, length), key)
        if self._in_one_kernel(query, tables[0]) and self._in_one_kernel(key, tables[0]):
            cos, sin = (table[0] for table in tables)
            return rotate(query, cos, sin, slot), rotate(key, cos, sin, slot)
        cos, sin = (table.index_select(1, slot) for table in tables)
        return self._both(query, key, cos, sin)

    def _both(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        if self._in_one_kernel(query, cos) and self._in_one_kernel(key, cos):
            return rotate(query, cos[0], sin[0]), rotate(key, cos[0], sin[0])
        query, key = self._rotate(query[None], key[None], cos, sin)
        return query[0], key[0]

    def _one(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        if self._in_one_kernel(x, cos):
            return rotate(x, cos[0], sin[0])
        return self._rotate(x[None], x[None, :0], cos, sin)[0][0]

    def _in_one_kernel(self, x: Tensor, cos: Tensor) -> bool:
        """Whether a kernel of ours gives the bits of the model's own rotation."""
        return self._same_bits and _usual(cos, x) and x.is_cuda

    def _table(self, n: int, length: int, like: Tensor) -> Tables:
        """cos and sin [1, >= n, rotary_dim] of positions 0.., with the frequencies of `length`; of
        positions length - n.. where these would tell the module of more tokens."""
        before, regime = self.table_kind(n, length)
        place = like.device, like.dtype, before
        held = self._tables.get(place)
        if held is None or held[0] != regime or held[1][0].shape[1] < n:
            size = n + n // 4  # grows by quarters, not at every step
            if before or (self._kind == "dynamic" and regime):
                size = n
            elif self._kind and regime == 0:
                size = min(size, self._limit)
            held = regime, self._angles(-before, size - before, max(size - before, length), like)
            self._tables[place] = held
        return held[1]

    def _angles(self, start: int, stop: int, length: int, like: Tensor) -> Tables:
        """cos and sin [1, stop - start, rotary_dim] with the frequencies of `length` >= stop."""
        rotary = self._on(like.device)
        positions = torch.arange(start, stop, device=like.device)[None]
        if self._kind:
            # the module looks at the largest position: one that is thrown away tells the length,
            # and a first call makes it forget a longer one
            rotary(like, positions.new_zeros(1, 1), *self._layer_type)
            positions = torch.cat((positions, positions.new_full((1, 1), length - 1)), 1)
        cos, sin = rotary(like, positions, *self._layer_type)
        return cos[:, : stop - start], sin[:, : stop - start]

    def _on(self, device: torch.device) -> nn.Module:
        if device not in self._copies:
            self._copies[device] = copy.deepcopy(self._original).to(device)
        return self._copies[device]


def _length_rule(rotary: Any, layer_type: str | None) -> tuple[str, int]:
    """("dynamic" or "longrope", the length up to which it keeps to its first frequencies)."""
    kind, settings = getattr(rotary, "rope_type", "default"), {}
    if isinstance(kind, dict):
        kind = kind[layer_type]
        settings = rotary.config.rope_parameters[layer_type]
    if "dynamic" in kind:
        return "dynamic", int(rotary.original_max_seq_len)
    if kind != "longrope":
        return "", 0
    config = rotary.config
    settings = settings or getattr(config, "rope_parameters", None) or {}
    original = (
        settings.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or config.max_position_embeddings
    )
    return "longrope", int(original)


def _is_half_split(rotate: Rotate) -> bool:
    """Whether `rotate` turns the pairs (i, i + D/2) of a head: tried on eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    x, angle = (torch.randn(1, 1, 3, d, generator=generator) for d in (8, 4))
    cos, sin = (torch.cat((part, part), -1)[0] for part in (angle.cos(), angle.sin()))
    low, high = x.chunk(2, -1)
    expected = x * cos + torch.cat((-high, low), -1) * sin
    try:
        return torch.allclose(rotate(x, x, cos, sin)[0], expected)
    except (RuntimeError, IndexError, TypeError, ValueError):  # other tables, or other arguments
        return False


def _usual(cos: Tensor, x: Tensor) -> bool:
    """Whether a kernel reads these tables [1, >= T, D] for x [H, T, D] as they lie."""
    return (
        cos.ndim == 3
        and cos.shape[0] == 1
        and cos.shape[1] >= x.shape[1]
        and cos.stride(2) == 1  # 0 of an identity module
        and rotation_refusal(x, cos) is None
    )


def _rounds_each_step(rotate: Rotate) -> bool:
    """Whether a half-split `rotate` rounds both products and their sum to the dtype."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        x, cos, sin = (torch.randn(4, 64, 8, generator=generator).to(dtype) for _ in range(3))
        made, _ = rotate(x[None], x[None, :0], cos[:1, :], sin[:1, :])
        if made.dtype != dtype or not torch.equal(made[0], rotate_naive(x, cos[0], sin[0])):
            return False
    return True

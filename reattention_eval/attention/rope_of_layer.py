"""Which rotation a layer applies: found by trying the model's own on what it hands over."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.recording import Call, Recording
from reattention_eval.attention.rope import (
    IdentityRotary,
    Rotate,
    ViewRope,
    rotate_half_split,
    rotate_part,
)
from reattention_eval.errors import ConfigError

ULPS = 4


class RopeFinder:
    """Which of a model's rotations turns what a layer hands over un-rotated into what it hands over
    rotated."""

    def __init__(self, rotaries: Sequence[nn.Module], rotated: Recording) -> None:
        self._modules = {id(m): m for m in rotaries}
        self._tables = list(rotated.tables)
        self._made: dict[Any, ViewRope] = {}

    def rope(self, rotated: Call, bare: Call, layer: int, name: str) -> ViewRope:
        """Raises ConfigError where none does."""
        if not torch.equal(rotated.value, bare.value):
            raise ConfigError(f"{name}: the values of layer {layer} depend on the position.")
        for rope in self._candidates(rotated):
            try:
                made = rope.rotate_view(bare.query[0], bare.key[0])
            except (RuntimeError, IndexError, TypeError, ValueError):
                continue  # tables of other dimensions, or a function of other arguments
            pairs = ((made[0], rotated.query, bare.query), (made[1], rotated.key, bare.key))
            if all(_near(ours, own[0], before[0]) for ours, own, before in pairs):
                return rope
        raise ConfigError(
            f"{name}: what layer {layer} attends with is not RoPE of its queries and keys alone "
            "(they are normed, scaled or mixed afterwards, or rotated in a way of their own), so a "
            "view cannot rotate them anew; use a decoder whose last step before attention is RoPE."
        )

    def _candidates(self, call: Call) -> Iterator[ViewRope]:
        """The likeliest first: no rotation (equal bits), the layer's own type or module."""
        dim = call.query.shape[-1]
        yield self._rope(IdentityRotary({None: dim}), None, rotate_half_split, ("none", dim))
        file = sys.modules[type(call.module).__module__]
        rotate = getattr(file, "apply_rotary_pos_emb", rotate_half_split)
        kinds = {
            getattr(call.module, "attention_type", None), getattr(call.module, "layer_type", None)
        }  # fmt: skip
        within = {id(m) for m in call.module.modules()}

        def unlikely(table: tuple[int, str | None]) -> bool:
            return table[0] not in within and table[1] not in kinds - {None}

        for module, told in sorted(self._tables, key=unlikely):
            for part in (False, True):
                key = (module, told, rotate, part)
                how = rotate_part(rotate) if part else rotate
                yield self._rope(self._modules[module], told, how, key)

    def _rope(self, rotary: nn.Module, told: str | None, rotate: Rotate, key: Any) -> ViewRope:
        if key not in self._made:
            self._made[key] = ViewRope(rotary, rotate, told)
        return self._made[key]


def _near(ours: Tensor, own: Tensor, before: Tensor) -> bool:
    """Elementwise: a rotation of x into y rounds terms of at most |y| + 2 |x|."""
    if ours.shape != own.shape:
        return False
    step = ULPS * torch.finfo(own.dtype).eps
    exact, near, far = (x.double().to(own.device) for x in (own, ours, before))
    return bool(((near - exact).abs() <= step * (exact.abs() + far.abs())).all())

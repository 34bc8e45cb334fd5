"""Launches of the Triton kernels of `attend_causal`, in which shapes."""

from __future__ import annotations

import os
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from reattention_kernels.causal.triton import (
    LOG2E,
    causal_attention_kernel,
    join_parts_kernel,
)
from reattention_kernels.device_number import number_step


class Tile(NamedTuple):
    """The shape of a launch; chosen by the card, dtype and D alone, so that the bits are."""

    rows: int
    keys: int
    warps: int
    stages: int


# of 16 bit and head_dim up to 128; the larger one wants Hopper's shared memory (docs/kernels.md)
HALF_TILE, HOPPER_TILE = Tile(64, 64, 4, 3), Tile(128, 128, 8, 3)
WIDE_TILE = Tile(32, 32, 4, 2)  # float32 and head_dim 256


def upcast() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def attend_causal_triton(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    _mask: object = None,
    tile: Tile | None = None,
) -> Tensor:
    """Same contract as `attend_causal`; never waits for the host."""
    b, h, t, d = query.shape
    if tile is None:
        tile = _tile(query)
    step = 0 if lengths is None else number_step(lengths)
    causal_attention_kernel[(triton.cdiv(t, tile.rows), h, b)](
        query, key, value, lengths, out, scale * LOG2E, t, key.shape[2], step,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3], *out.stride()[:3],
        GROUP=h // key.shape[1], D=d, DP=max(16, triton.next_power_of_2(d)),
        BM=tile.rows, BN=tile.keys, STAGES=tile.stages, UPCAST=upcast(), num_warps=tile.warps,
    )  # fmt: skip
    return out


def _tile(query: Tensor) -> Tile:
    if query.element_size() == 4 or query.shape[3] > 128:
        return WIDE_TILE
    hopper = torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0)
    return HOPPER_TILE if hopper else HALF_TILE


def join_parts(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor], out: Tensor) -> Tensor:
    """Answers [B, H, T, D] over two parts of the keys and the logarithms of their sums."""
    b, h, t, d = out.shape
    (a, a_log), (c, c_log) = first, second
    join_parts_kernel[(triton.cdiv(t, 16), h, b)](
        a, a_log.reshape(b, h, t).contiguous(), c, c_log.reshape(b, h, t).contiguous(), out, t, h,
        *a.stride()[:3], *c.stride()[:3], *out.stride()[:3],
        D=d, DP=triton.next_power_of_2(d), BLOCK=16,
    )  # fmt: skip
    return out

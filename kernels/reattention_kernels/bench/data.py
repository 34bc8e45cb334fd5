"""Inputs of the bench: random, correlated along the sequence, or a real model's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = {"random": 0.0, "ar": 0.9}  # lag-1 correlation
DEVICE = "cuda"


def correlated(shape: tuple[int, ...], rho: float, generator: torch.Generator) -> Tensor:
    """Unit normal float32 [..., n, D], an AR(1) process with coefficient rho along n."""
    x = torch.randn(shape, device=DEVICE, generator=generator)
    step = 1
    while rho and step <= 64 and step < shape[-2]:  # 0.9^128 is lost in bf16
        later = x.clone()
        later[..., step:, :].add_(x[..., :-step, :], alpha=rho**step)
        x, step = later, 2 * step
    return x * math.sqrt(1 - rho * rho)


def make_queries(
    kind: str, heads: int, t: int, d: int, seed: int, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """[1, heads, t, d]."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    return correlated((1, heads, t, d), KINDS[kind], generator).to(dtype)


def make_keys(
    kind: str, heads: int, n: int, d: int, seed: int, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """[1, heads, n, d], made head by head: a million keys in float32 are 4 GiB."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    out = torch.empty(1, heads, n, d, dtype=dtype, device=DEVICE)
    for h in range(heads):
        out[0, h] = correlated((n, d), KINDS[kind], generator)
    return out


class RealLayer(NamedTuple):
    """Un-rotated: query [H, T, D] of the last T tokens, key [Hkv, tokens, D]."""

    query: Tensor
    key: Tensor


@dataclass(frozen=True)
class RealKeys:
    """What scripts/gpu_real_keys.py wrote: of a model that read `tokens` tokens, by layer."""

    model: str
    tokens: int
    layers: dict[int, RealLayer]


def load_real_keys(path: Path) -> RealKeys:
    """What the script wrote, on the CPU.

    Raises:
        ValueError: the file is none of its.
    """
    try:
        held = torch.load(path, map_location="cpu", mmap=True)
        layers = {
            int(n): RealLayer(*(x[name] for name in RealLayer._fields))
            for n, x in held["layers"].items()
        }
        found = RealKeys(str(held["model"]), int(held["tokens"]), layers)
    except (OSError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no queries and keys ({error}); make it with scripts/gpu_real_keys.py."
        ) from error
    for number, (query, key) in layers.items():
        fits = key.shape[1] == found.tokens and query.shape[2] == key.shape[2]
        if not fits or query.shape[0] % key.shape[0]:
            raise ValueError(
                f"{path}, layer {number}: query {list(query.shape)} and key {list(key.shape)} are "
                f"not of one layer and {found.tokens} tokens."
            )
    return found


def rope_tables(n: int, d: int) -> tuple[Tensor, Tensor]:
    """cos and sin [n, d] of plain RoPE."""
    angle = torch.outer(torch.arange(n), 10000.0 ** (-torch.arange(0, d, 2) / d))
    angle = torch.cat((angle, angle), 1).to(DEVICE)
    return angle.cos(), angle.sin()

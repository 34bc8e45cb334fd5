"""Inputs of the bench: random, correlated along the sequence, or like a real model's."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

STATISTICS = Path(__file__).with_name("smollm2_statistics.npz")
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
    if kind != "statistics":
        return correlated((1, heads, t, d), KINDS[kind], generator).to(dtype)
    mean, factor, rho = model_statistics("query")
    out = torch.empty(1, heads, t, d, dtype=dtype, device=DEVICE)
    for h in range(heads):
        kv = h * len(factor) // heads
        x = correlated((t, d), float(rho[kv]), generator) @ factor[kv].T
        out[0, h] = x + mean[kv, h % mean.shape[1]]
    return out


def make_keys(
    kind: str, heads: int, n: int, d: int, seed: int, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """[1, heads, n, d], made head by head: a million keys in float32 are 4 GiB."""
    generator = torch.Generator(DEVICE).manual_seed(seed)
    out = torch.empty(1, heads, n, d, dtype=dtype, device=DEVICE)
    for h in range(heads):
        if kind == "statistics":
            mean, factor, rho = model_statistics("key")
            out[0, h] = correlated((n, d), float(rho[h]), generator) @ factor[h].T + mean[h]
        else:
            out[0, h] = correlated((n, d), KINDS[kind], generator)
    return out


@cache
def model_statistics(side: str) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, Cholesky factor of the covariance and lag-1 correlation of un-rotated queries or keys.

    SmolLM2-135M on essays, 8,192 tokens at a time, layers 5 to 29. Its heads have 64 channels: each
    of the eight heads here is two of one layer side by side.
    """
    with np.load(STATISTICS) as file:
        named = (file[f"{side}_{name}"] for name in ("mean", "factor", "rho"))
        mean, factor, rho = (torch.tensor(x, dtype=torch.float32, device=DEVICE) for x in named)
    return mean, factor, rho


def rope_tables(n: int, d: int) -> tuple[Tensor, Tensor]:
    """cos and sin [n, d] of plain RoPE."""
    angle = torch.outer(torch.arange(n), 10000.0 ** (-torch.arange(0, d, 2) / d))
    angle = torch.cat((angle, angle), 1).to(DEVICE)
    return angle.cos(), angle.sin()

"""Inputs that the tests of the Triton forms share."""

from __future__ import annotations

import torch

KINDS = ("integers", "repeated", "equal", "normal")


def make_inputs(
    kind: str,
    heads: int,
    kv_heads: int,
    t: int,
    n: int,
    d: int,
    dtype: torch.dtype,
    batch: int = 1,
    device: str = "cpu",
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """query, key; the keys are a view into a cache that is longer on both sides.

    All but "normal" are small integers: exact in every format and every order of summation.
    """
    generator = torch.Generator(device).manual_seed(seed)
    options = dict(device=device, generator=generator)
    shapes = (batch, heads, t, d), (batch, kv_heads, n + 24, d)
    if kind == "normal":
        query, cache = (torch.randn(shape, **options).to(dtype) for shape in shapes)
        return query, cache[:, :, 8 : 8 + n]
    query, cache = (torch.randint(-3, 4, shape, **options).to(dtype) for shape in shapes)
    key = cache[:, :, 8 : 8 + n]
    if kind == "repeated":  # every score many times
        few = max(1, n // 20)
        key = key[:, :, torch.arange(n, device=device) % few]
    if kind == "equal":
        key = key[:, :, :1].expand(-1, -1, n, -1)
    return query, key

"""Ours beside every attention and every form at hand: milliseconds and ratios, in one run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.attention import SDPBackend

from reattention_kernels.bench import timing
from reattention_kernels.bench.bars import CHUNK, LONG, SHORT
from reattention_kernels.bench.steps import TOP_K, Layer, captured, made_layer
from reattention_kernels.topk_keys import topk_keys_blockwise, topk_keys_naive

Sides = dict[str, Callable[[], object]]
# queries and keys; the naive form holds all scores and sorts them: 512 x 128K would need over 60 GB
SMALL_CHUNK = 64
CASES = [(CHUNK, SHORT), (CHUNK, LONG), (SMALL_CHUNK, SHORT), (1, SHORT), (1, LONG)]
NAIVE_PRODUCT = SMALL_CHUNK * SHORT
# the form for machines without Triton walks over tiles: seconds for 512 x 1M, as long for 1 x 1M
TILED_KEYS = SHORT


def sides_of(layer: Layer) -> Sides:
    """What is timed against each other: our step and selection, then the others.

    A decode step runs as a CUDA graph, as the engine runs it.
    """
    sides: Sides = {"step": layer.step}
    if layer.t == 1:
        sides = {
            "step": captured(layer.step).replay,
            "step, launched": layer.step,
            "full attention": layer.decode_whole,
        }
    sides |= {
        "selection": layer.select,
        "SDPA cuDNN": layer.full_attention,
        "SDPA flash": lambda: layer.full_attention(SDPBackend.FLASH_ATTENTION),
    }
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        pass
    else:
        q, k, v = (x.transpose(1, 2) for x in (layer.query, layer.key, layer.value))
        sides["flash-attn"] = lambda: flash_attn_func(q, k, v)
    if layer.n <= TILED_KEYS:
        sides["top-k, PyTorch"] = lambda: topk_keys_blockwise(layer.query, layer.middle, TOP_K)
    if layer.t * layer.n <= NAIVE_PRODUCT:
        sides["top-k, naive"] = lambda: topk_keys_naive(layer.query, layer.middle, TOP_K)
    return sides


def compare_all() -> list[dict[str, Any]]:
    """Prints a line a case; the ceilings of the card stand in each."""
    rows = []
    for t, n in CASES:
        sides = sides_of(made_layer("random", n, t))
        times = timing.compare({**sides, "matmul": timing.matmul(), "copy": timing.copy()})
        rows.append({"id": f"others T={t} N={n}", "ms": times})
        print(f"T={t} N={n}: " + ", ".join(said(times, name) for name in times), flush=True)
        del sides
        torch.cuda.empty_cache()
    return rows


def said(times: dict[str, float], name: str) -> str:
    """A side's time, and how often our step fits into it."""
    ceiling = name in ("step", "matmul", "copy")
    return f"{name} {times[name]:.3f} ms" + (
        "" if ceiling else f" ({times[name] / times['step']:.2f}x)"
    )

"""How each bar is measured: raw numbers by kind of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reattention_kernels.bench import timing
from reattention_kernels.bench.data import RealKeys, make_keys, make_queries
from reattention_kernels.bench.rules import LAYERS
from reattention_kernels.bench.steps import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    TOP_K,
    Layer,
    captured,
    made_layer,
    real_layer,
)
from reattention_kernels.topk_keys.triton import topk_keys_triton

LONG, SHORT, CHUNK = 1_048_576, 131_072, 512
REAL_LONG = 524_288  # or more


def topk_rate(n: int, d: int) -> Callable[[str], dict[str, Any]]:
    def measure(kind: str) -> dict[str, Any]:
        query = make_queries(kind, HEADS, CHUNK, d, seed=1)
        key = make_keys(kind, KV_HEADS, n, d, seed=2)
        sides = {"ours": lambda: topk_keys_triton(query, key, TOP_K), "matmul": timing.matmul()}
        times = timing.compare(sides)
        return {
            "ms": times["ours"],
            "work": 2 * HEADS * CHUNK * n * d,
            "ceiling_ms": times["matmul"],
            "ceiling_work": 2 * timing.MATMUL_SIZE**3,
        }

    return measure


def against_attention(n: int, what: str) -> Callable[[str], dict[str, Any]]:
    return lambda kind: _against_attention(made_layer(kind, n, CHUNK), what)


def on_real_keys(found: RealKeys) -> Callable[[str], dict[str, Any]]:
    """The whole selection on a real model's layer, "layer 13", against attention."""

    def measure(kind: str) -> dict[str, Any]:
        layer = real_layer(found.layers[int(kind.removeprefix("layer "))])
        raw = _against_attention(layer, "select")
        return {**raw, "model": found.model, "query": list(layer.query.shape[1:])}

    return measure


def _against_attention(layer: Layer, what: str) -> dict[str, Any]:
    times = timing.compare({"ours": getattr(layer, what), "cudnn": layer.full_attention})
    return {"ms": times["ours"], "reference_ms": times["cudnn"]}


def decode_bandwidth(kind: str) -> dict[str, Any]:
    query = make_queries(kind, HEADS, 1, HEAD_DIM, seed=1)
    key = make_keys(kind, KV_HEADS, LONG, HEAD_DIM, seed=2)
    sides = {"ours": lambda: topk_keys_triton(query, key, TOP_K), "copy": timing.copy()}
    times = timing.compare(sides)
    return {
        "ms": times["ours"],
        "work": key.numel() * key.element_size(),
        "ceiling_ms": times["copy"],
        "ceiling_work": 2 * timing.COPY_BYTES,
    }


def decode_step(kind: str) -> dict[str, Any]:
    layer = made_layer(kind, LONG, 1)
    graph = captured(layer.step)
    sides = {"ours": graph.replay, "eager": layer.step, "cudnn": layer.full_attention}
    times = timing.compare(sides)
    return {
        "ms": times["ours"],
        "eager_ms": times["eager"],
        "reference_ms": times["cudnn"],
    }


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {
    "K1": topk_rate(LONG, 128),
    "K1s": topk_rate(SHORT, 128),
    "K2": topk_rate(LONG, 64),
    "K3": against_attention(SHORT, "select"),
    "K4": against_attention(LONG, "select"),
    "K5": against_attention(SHORT, "step"),
    "K6": against_attention(LONG, "step"),
    "K8": decode_bandwidth,
    "K9": decode_step,
}
SHAPES = {
    "K1": f"T={CHUNK} N={LONG} D=128", "K1s": f"T={CHUNK} N={SHORT} D=128",
    "K2": f"T={CHUNK} N={LONG} D=64", "K3": f"T={CHUNK} N={SHORT} D=128",
    "K4": f"T={CHUNK} N={LONG} D=128", "K5": f"T={CHUNK} N={SHORT} D=128",
    "K6": f"T={CHUNK} N={LONG} D=128",
    "K8": f"T=1 N={LONG} D=128", "K9": f"T=1 N={LONG} D=128",
}  # fmt: skip


def real_measure(bar: str, files: Sequence[RealKeys]) -> tuple[Any, str] | None:
    """(measure, shape) of K3i or K7 on the file that fits it; None where none does.

    Raises:
        ValueError: the file lacks one of the layers that are judged.
    """
    fits = [f for f in files if (f.tokens == SHORT if bar == "K3i" else f.tokens >= REAL_LONG)]
    if not fits:
        return None
    if lacking := [name for name in LAYERS if int(name.split()[1]) not in fits[0].layers]:
        raise ValueError(f"the queries and keys of {fits[0].model} lack {', '.join(lacking)}.")
    return on_real_keys(fits[0]), f"T={CHUNK} N={fits[0].tokens} of {fits[0].model}"

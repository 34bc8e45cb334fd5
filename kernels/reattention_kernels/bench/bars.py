"""How each bar is measured: raw numbers by kind of data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reattention_kernels.bench import timing
from reattention_kernels.bench.data import make_keys, make_queries
from reattention_kernels.bench.steps import HEAD_DIM, HEADS, KV_HEADS, TOP_K, Layer, captured
from reattention_kernels.topk_keys.int8_select import topk_keys_int8
from reattention_kernels.topk_keys.triton import topk_keys_triton

LONG, SHORT, CHUNK = 1_048_576, 131_072, 512


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


def against_attention(n: int, what: str, indexed: bool = False) -> Callable[[str], dict[str, Any]]:
    def measure(kind: str) -> dict[str, Any]:
        layer = Layer(kind, n, CHUNK, indexed)
        sides = {"ours": getattr(layer, what), "cudnn": layer.full_attention}
        times = timing.compare(sides)
        raw: dict[str, Any] = {"ms": times["ours"], "reference_ms": times["cudnn"]}
        if indexed:
            winners, n_open = topk_keys_int8(layer.query, layer.middle, layer.index, TOP_K)
            exact = topk_keys_triton(layer.query, layer.middle, TOP_K)
            if not torch.equal(winners, exact):
                raise AssertionError("the int8 form chose other keys than the exact form")
            raw["rows"], raw["open_rows"] = HEADS * CHUNK, int(n_open.sum())
        return raw

    return measure


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


def decode_step(indexed: bool) -> Callable[[str], dict[str, Any]]:
    def measure(kind: str) -> dict[str, Any]:
        layer = Layer(kind, LONG, 1, indexed)
        graph = captured(layer.step)
        sides = {"ours": graph.replay, "eager": layer.step, "cudnn": layer.full_attention}
        times = timing.compare(sides)
        return {
            "ms": times["ours"],
            "eager_ms": times["eager"],
            "reference_ms": times["cudnn"],
        }

    return measure


MEASURES: dict[str, Callable[[str], dict[str, Any]]] = {
    "K1": topk_rate(LONG, 128),
    "K1s": topk_rate(SHORT, 128),
    "K2": topk_rate(LONG, 64),
    "K3": against_attention(SHORT, "select"),
    "K4": against_attention(LONG, "select"),
    "K5": against_attention(SHORT, "step"),
    "K6": against_attention(LONG, "step"),
    "K7": against_attention(LONG, "select", indexed=True),
    "K8": decode_bandwidth,
    "K9": decode_step(indexed=False),
    "K9i": decode_step(indexed=True),
}
SHAPES = {
    "K1": f"T={CHUNK} N={LONG} D=128", "K1s": f"T={CHUNK} N={SHORT} D=128",
    "K2": f"T={CHUNK} N={LONG} D=64", "K3": f"T={CHUNK} N={SHORT} D=128",
    "K4": f"T={CHUNK} N={LONG} D=128", "K5": f"T={CHUNK} N={SHORT} D=128",
    "K6": f"T={CHUNK} N={LONG} D=128", "K7": f"T={CHUNK} N={LONG} D=128",
    "K8": f"T=1 N={LONG} D=128", "K9": f"T=1 N={LONG} D=128", "K9i": f"T=1 N={LONG} D=128",
}  # fmt: skip

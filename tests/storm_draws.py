"""Random models and methods for the storm of session operations; everything comes from one seed."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

import torch
from families import tiny_family
from products_by_row import products_by_row
from tiny_models import longrope, tiny_model

from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, NativeMethod, build_method

WINDOW = 128  # trained
SHAPES = ((4, 2), (3, 1), (4, 1), (7, 1), (4, 4), (6, 2))
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "window": 48},
    "longrope": {"rope_scaling": longrope(60)},
}
WINDOWS = dict(use_sliding_window=True, sliding_window=11, max_window_layers=2)
OTHERS = ("phi3", "gemma3_text", "cohere", "gpt_neox", "olmo2", "glm", "stablelm")
KINDS = (
    *["reattention"] * 12, "streaming_llm", "full", "infllm", "lm_infinite", "self_extend", "dca",
    "quest", "oracle_topk", "oracle_topp", "native_full", "dynamic_ntk", "yarn", "linear",
)  # fmt: skip
PRESSES = ("snapkv", "pyramidkv", "tova", "expected_attention", "keydiff", "h2o")


def settings_of(kind: str, draw: random.Random, chunk: int) -> dict[str, Any]:
    local = chunk + draw.choice((0, 1, 4, 9))
    if kind == "reattention":
        return dict(
            global_size=draw.choice((0, 1, 2, 5)), local_size=local, chunk_size=chunk,
            span_size=draw.choice((1, 2, 3, 4, 7)), top_k=draw.choice((1, 2, 3, 5)),
            max_spans=draw.choice((1, 2, 4, 7)), selection=draw.choice(("exact", "block_max")),
            select_from=draw.choice(("scope", "local")), allow_beyond_window=True,
            score=draw.choice(("qk", "qk", "qkv_l1", "qkv_l2")),
            last_tokens=draw.choice((None, None, 1, 4, 13)), last_alone=draw.random() < 0.2,
            per_kv_head=draw.random() < 0.3, span_grid=draw.random() < 0.3,
            votes=draw.choice(("count", "count", "rank", "margin", "mass")),
            vote_memory=draw.choice((0, 0, 1, 5)), layer_slope=draw.choice((0, 0, 0.5, -0.4)),
        )  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "streaming_llm": dict(sink_size=draw.choice((0, 2, 5)), window_size=local),
        "infllm": dict(global_size=draw.choice((0, 2)), local_size=local, top_k=draw.choice((1, 3)),
                       block_size=draw.choice((2, 4, 5)), representatives=draw.choice((1, 2))),
        "lm_infinite": dict(global_size=draw.choice((0, 3)), window_size=local, distance_limit=40),
        "self_extend": dict(window_size=local, group_size=draw.choice((2, 4))),
        "dca": dict(segment_size=draw.choice((6, 11)), window_size=16),
        "quest": dict(budget_tokens=draw.choice((8, 17)), page_size=draw.choice((3, 4)),
                      dense_layers=draw.choice((0, 1))),
        "oracle_topk": dict(budget_tokens=9, prefill=draw.choice(("chosen", "full"))),
        "oracle_topp": dict(p=0.8, prefill=draw.choice(("chosen", "full"))),
    }  # fmt: skip
    if kind in PRESSES:
        shape = {"snapkv": dict(window_size=8), "pyramidkv": dict(window_size=8)}
        return dict(budget_tokens=draw.choice((20, 40)), **shape.get(kind, {}))
    if kind in ("native_full", "dynamic_ntk", "yarn", "linear"):
        return {}
    return dict(own.get(kind, {}), chunk_size=chunk)


def a_method(draw: random.Random, kinds: tuple[str, ...] = KINDS) -> Method:
    while True:
        kind, chunk = draw.choice(kinds), draw.choice((1, 3, 5, 6, 8))
        try:
            return build_method(dict(type=kind, **settings_of(kind, draw, chunk)))
        except ConfigError:  # settings that do not go together
            continue


def a_model(draw: random.Random, method: Method) -> tuple[Any, ...]:
    """What `model_of` makes it from."""
    heads, kv_heads = draw.choice(SHAPES)
    dtype = draw.choice((torch.float64, torch.float64, torch.float32))
    if method.name in PRESSES:
        return "llama", heads, kv_heads, "default", torch.float32, None
    if isinstance(method, NativeMethod):
        family = draw.choice(("llama", "qwen2", "sliding"))
        own = method if method.name != "native_full" else None
        return family, heads, kv_heads, "default", dtype, own
    family = draw.choice(("llama", "qwen2", "qwen3", "mistral", "sliding", draw.choice(OTHERS)))
    return family, heads, kv_heads, draw.choice(tuple(ROPES)), dtype, None


@lru_cache(maxsize=64)
def model_of(
    family: str, heads: int, kv_heads: int, rope: str, dtype: torch.dtype, method: Any, copy: int
) -> Any:
    """copy: models of different ones share no module."""
    if family in OTHERS:
        model = tiny_family(family, dtype)
    else:
        more: dict[str, Any] = dict(window=WINDOW, **{}) | ROPES[rope]
        if family == "sliding":
            family, more = "qwen2", more | WINDOWS
        model = tiny_model(
            family, heads=heads, kv_heads=kv_heads, layers=3, dtype=dtype, **more,
        )  # fmt: skip
        if method is not None:
            torch.manual_seed(0)
            model = type(model)(method.configure(model.config)).to(dtype).eval()
    model.set_attn_implementation("sdpa")
    model.generation_config.eos_token_id = None
    return products_by_row(model)

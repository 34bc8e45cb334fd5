"""Kernels of a model and a method, compiled in the background while weights load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reattention_eval.cache import DEVICE
from reattention_eval.cache.tiers import block_tokens, window_tokens
from reattention_eval.engine.head_shape import head_shape
from reattention_eval.methods import Method, ViewMethod
from reattention_eval.methods.compiled import kernel_settings, layer_spans
from reattention_kernels.warmup import CompilingAhead, KernelShape, compile_ahead

_STARTED: dict[KernelShape, CompilingAhead] = {}


def compile_kernels(
    config: Any, method: Method, dtype: torch.dtype, parts: int = 1, cache: str = DEVICE
) -> CompilingAhead | None:
    """Start to compile, once a shape; None where nothing is to be compiled.

    Args:
        config: the model's, of transformers.
        dtype: of its weights.
        parts: processes that its heads are spread over.
        cache: where keys and values are, as `attach` takes it.
    """
    settings = kernel_settings(method)
    text = config.get_text_config()
    hidden = getattr(text, "hidden_size", None)
    if settings is None or not hidden or not torch.cuda.is_available():
        return None
    found = head_shape(text, hidden)
    if found is None:
        return None
    kv_heads, layers = max(1, found.kv_heads // parts), text.num_hidden_layers
    shape = KernelShape(
        found.heads // parts,
        kv_heads,
        found.dim,
        dtype,
        norm_dims=(hidden,),
        device_length=True,
        host_values=_host_values(method, kv_heads * found.dim * dtype.itemsize, cache),
        layer_spans=layer_spans(method, layers),
        **settings,
    )
    if shape not in _STARTED:
        _STARTED[shape] = compile_ahead(shape)
    return _STARTED[shape]


def _host_values(method: Method, token_bytes: int, cache: str) -> tuple[int, int] | None:
    """See `KernelShape.host_values`; token_bytes: of a token's values in a layer."""
    if cache == DEVICE or not isinstance(method, ViewMethod) or method.fetched_keys is None:
        return None
    window = method.first_tokens + window_tokens(method.fetched_keys)
    return window, block_tokens(token_bytes)


def compiling(
    configure: Callable[[Any], Any] | None,
    method: Method,
    dtype: torch.dtype,
    parts: int = 1,
    cache: str = DEVICE,
) -> Callable[[Any], Any]:
    """`configure` for loading a model, which besides starts to compile: the weights come next."""

    def configured(config: Any) -> Any:
        config = config if configure is None else configure(config)
        compile_kernels(config, method, dtype, parts, cache)
        return config

    return configured

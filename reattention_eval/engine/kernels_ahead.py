"""Kernels of a model and a method, compiled in the background while weights load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from reattention_eval.engine.head_shape import head_shape
from reattention_eval.methods import Method
from reattention_eval.methods.compiled import kernel_settings
from reattention_kernels.warmup import CompilingAhead, KernelShape, compile_ahead

_STARTED: dict[KernelShape, CompilingAhead] = {}


def compile_kernels(
    config: Any, method: Method, dtype: torch.dtype, parts: int = 1
) -> CompilingAhead | None:
    """Start to compile, once a shape; None where nothing is to be compiled.

    Args:
        config: the model's, of transformers.
        dtype: of its weights.
        parts: processes that its heads are spread over.
    """
    settings = kernel_settings(method)
    text = config.get_text_config()
    hidden = getattr(text, "hidden_size", None)
    if settings is None or not hidden or not torch.cuda.is_available():
        return None
    found = head_shape(text, hidden)
    if found is None:
        return None
    shape = KernelShape(
        found.heads // parts,
        max(1, found.kv_heads // parts),
        found.dim,
        dtype,
        norm_dims=(hidden,),
        device_length=True,
        **settings,
    )
    if shape not in _STARTED:
        _STARTED[shape] = compile_ahead(shape)
    return _STARTED[shape]


def compiling(
    configure: Callable[[Any], Any] | None, method: Method, dtype: torch.dtype, parts: int = 1
) -> Callable[[Any], Any]:
    """`configure` for loading a model, which besides starts to compile: the weights come next."""

    def configured(config: Any) -> Any:
        compile_kernels(config, method, dtype, parts)
        return config if configure is None else configure(config)

    return configured

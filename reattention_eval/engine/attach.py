"""`attach`: a method on a model for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from typing import Any
from weakref import WeakSet

from torch import nn

from reattention_eval.attention import Hook, check_model, short_prompt, watched
from reattention_eval.cache import DEVICE
from reattention_eval.engine.fit import check_cache, check_processes, fit
from reattention_eval.engine.hooked import HookedSession
from reattention_eval.engine.native import NativeSession
from reattention_eval.engine.session import Session
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method, NativeMethod, ViewMethod, build_method
from reattention_eval.parallel import ranks_of
from reattention_eval.rope_names import check_rope_is_read

_NATIVE: WeakSet[nn.Module] = WeakSet()  # models that a native method is attached to


@contextmanager
def attach(
    model: nn.Module, method: Method | Mapping[str, Any] | str, *, cache: str = DEVICE
) -> Iterator[Session]:
    """Run `model` with `method` inside the block; outside it the model is as it was.

    Inside, `model(...)` and `model.generate(...)` use the method too.

    Args:
        model: a transformers causal language model with rotary position embedding.
        method: a method, its name, or a dict with its `type` and settings.
        cache: where keys and values are: "device"; "values_on_host", the values of all but a
            window of tokens in (pinned) host memory; "host", keys there too, on the device layer
            by layer; "auto": on the device what has room, prompt by prompt. The same bits in each;
            of methods on the hook only.

    Yields:
        the session that prefills, decodes and counts.

    Raises:
        ConfigError: the method does not exist, cannot run on this machine or does not fit the
            model (`reattention_eval.engine.fit`; a scope beyond its trained window, for example),
            the model already carries one, or it is no decoder that can be hooked: every layer must
            attend causally, in full or within a sliding window, by RoPE or no position at all
            (`reattention_eval.attention.model_parts`).
        SelectionError: on leaving the block, a run that had to select did not.
    """
    method = build_method(method)
    check_model(model)
    ranks = ranks_of(model)
    check_cache(cache, method, ranks.size if ranks else 1)
    check_processes(method, ranks.size if ranks else 1)
    if model in _NATIVE:
        raise ConfigError(
            f"this {type(model).__name__} already has a method attached; leave that "
            "`with attach(...)` block before attaching another."
        )
    check_rope_is_read(model.config)
    method = fit(method, model.config)
    with _session(model, method, cache) as session:
        with watched(type(model).__name__):
            prompt = short_prompt(model)
            session.prefill(prompt, document_tokens=prompt.shape[1])
        session.reset()
        session.reset_stats()
        yield session
        session.check_selected()


def _session(model: nn.Module, method: Method, cache: str) -> AbstractContextManager[Session]:
    if isinstance(method, ViewMethod):
        return _hooked(model, method, cache)
    if isinstance(method, NativeMethod):
        return _native(model, method)
    raise ConfigError(
        f"{method.name} is neither a ViewMethod nor a NativeMethod; build it on one of them."
    )


@contextmanager
def _hooked(model: nn.Module, method: ViewMethod, cache: str) -> Iterator[Session]:
    hook = Hook(model, method, cache)
    hook.install()
    try:
        with closing(HookedSession(model, hook, method)) as session:
            yield session
    finally:
        hook.remove()


@contextmanager
def _native(model: Any, method: NativeMethod) -> Iterator[Session]:
    _NATIVE.add(model)
    try:
        with (
            method.applied(model) as reader,
            closing(NativeSession(model, method, reader)) as session,
        ):
            yield session
    finally:
        _NATIVE.discard(model)

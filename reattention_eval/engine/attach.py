"""`attach`: a method on a model for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

from torch import nn

from reattention_eval.attention import Hook, check_model, short_prompt, watched
from reattention_eval.context_length import known_context_length
from reattention_eval.engine.session import Session
from reattention_eval.methods import Method, build_method


@contextmanager
def attach(model: nn.Module, method: Method | Mapping[str, Any] | str) -> Iterator[Session]:
    """Run `model` with `method` inside the block; outside it the model is as it was.

    Inside, `model(...)` and `model.generate(...)` use the method too.

    Args:
        model: a transformers causal language model with rotary position embedding.
        method: a method, its name, or a dict with its `type` and settings.

    Yields:
        the session that prefills, decodes and counts.

    Raises:
        ConfigError: the method does not exist or does not fit the model (a scope beyond its
            trained window, one that already carries a method), or the model is no decoder that
            can be hooked: every layer must attend causally, in full or within a sliding window,
            by RoPE or no position at all (`reattention_eval.attention.survey`).
        SelectionError: on leaving the block, a run that had to select did not.
    """
    method = build_method(method)
    check_model(model)
    method.check(known_context_length(model.config))
    hook = Hook(model, method)
    hook.install()
    try:
        with closing(Session(model, hook, method)) as session:
            with watched(type(model).__name__):
                session.prefill(short_prompt(model))
            session.reset()
            session.reset_stats()
            yield session
            session.check_selected()
    finally:
        hook.remove()

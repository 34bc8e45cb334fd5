"""`attach`: a method on a model for the length of a `with` block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook, trained_window
from reattention_eval.engine.session import Session
from reattention_eval.engine.stats import input_device
from reattention_eval.errors import SelectionError
from reattention_eval.methods import Method, build_method

# relative error of the logits that a working hook stays below, by dtype (transformers' eager
# attention rounds its softmax to float32 whatever the dtype)
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3}
HALF_TOLERANCE = 0.1
CHECK_TOKENS = 16


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
            trained window, a model without RoPE, one that already carries a method).
        SelectionError: the hook does not reproduce the model's own logits on a short prompt, or,
            on leaving the block, a run that had to select did not.
    """
    method = build_method(method)
    method.check(trained_window(model.config))
    hook = Hook(model, method)
    prompt = _check_prompt(model)
    native = _last_logits(model, prompt)
    hook.install()
    try:
        with closing(Session(model, hook, method)) as session:
            _check_logits(native, session.prefill(prompt))
            session.reset()
            session.reset_stats()
            yield session
            session.check_selected()
    finally:
        hook.remove()


def _check_prompt(model: Any) -> Tensor:
    device, vocabulary = input_device(model), model.config.vocab_size
    return (torch.arange(CHECK_TOKENS, device=device) * 7919 % vocabulary)[None]


def _last_logits(model: nn.Module, input_ids: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(input_ids=input_ids, use_cache=False).logits[:, -1]


def _check_logits(native: Tensor, hooked: Tensor) -> None:
    tolerance = TOLERANCE.get(native.dtype, HALF_TOLERANCE)
    own, ours = native.double(), hooked.double().to(native.device)
    error = float((own - ours).norm() / own.norm())
    if not error <= tolerance:
        raise SelectionError(
            f"with the method attached, the logits of a {CHECK_TOKENS}-token prompt differ from "
            f"the model's own by {error:.1e} (allowed {tolerance:.0e}): this model's attention is "
            "not what the hook assumes; please report the model and the transformers version."
        )

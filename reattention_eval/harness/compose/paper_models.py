"""A configuration's entry for one of the paper's models."""

from __future__ import annotations

from typing import Any

from reattention_eval.checkpoints import model_path
from reattention_eval.checkpoints.paper_models import PAPER_MODELS
from reattention_eval.errors import ConfigError
from reattention_eval.harness.compose.embedded_models import scopes_of
from reattention_eval.harness.placement import placement


def paper_model(name: str) -> dict[str, Any]:
    """A model's entry in a configuration, without its type.

    The scope is the paper's: 32 + 4,096 + 127 x 32 = 8,192 for a window of 8K, else
    32 + 8,192 + 256 x 32 = 16,416; other methods get the same budget.

    Raises:
        ConfigError: an unknown name; or see `placement`.
    """
    if name not in PAPER_MODELS:
        raise ConfigError(f"unknown model {name!r}; there are: {', '.join(PAPER_MODELS)}.")
    model = PAPER_MODELS[name]
    local, spans = (4096, 127) if model.window <= 8192 else (8192, 256)
    return dict(
        abbr=model.abbr,
        path=model_path(model.hub),
        chat_template=model.chat,
        dtype="bfloat16",
        window=model.window,
        method_settings=scopes_of(local, spans),
        batch_size=1,
        **placement(model.billions),
    )

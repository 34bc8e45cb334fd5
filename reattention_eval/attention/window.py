"""How far a model was trained to count."""

from __future__ import annotations

from typing import Any

from reattention_eval.errors import ConfigError


def trained_window(config: Any) -> int:
    """Tokens of the largest position the model's RoPE was made for, from its configuration.

    `max_position_embeddings`; with YaRN scaling the scaled length, whichever way the checkpoint
    writes it (some state the original length there, some the product).

    Raises:
        ConfigError: the configuration names none.
    """
    named = getattr(config, "max_position_embeddings", None)
    if not isinstance(named, int) or named < 1:
        raise ConfigError(
            f"the configuration of this {config.model_type} model names no trained window "
            f"(max_position_embeddings is {named}); set model.config.max_position_embeddings to "
            "the number of tokens that it was trained on."
        )
    window = named
    rope = rope_settings(config)
    if rope.get("rope_type", rope.get("type")) == "yarn":
        original = int(rope.get("original_max_position_embeddings") or window)
        window = max(window, int(original * float(rope.get("factor", 1.0))))
    return window


def rope_settings(config: Any) -> dict[str, Any]:
    """The rope section of a configuration: `rope_scaling` (4.x) or `rope_parameters` (5.x)."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = getattr(config, name, None)
        if settings:
            return dict(settings)
    return {}

"""How far a model was trained to count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reattention_eval.errors import ConfigError

MOST = 2**53  # what JSON holds exactly


def context_length(config: Any) -> int | None:
    """Tokens of the largest position the model's RoPE was made for; None where it does not say.

    `max_position_embeddings`; with YaRN scaling the scaled length, whichever way the checkpoint
    writes it (some state the original length there, some the product).

    Args:
        config: a configuration of transformers, or what its config.json holds.

    Raises:
        ConfigError: it says something that counts no tokens.
    """
    named = _setting(config, "max_position_embeddings")
    if named is None:
        return None
    rope = rope_settings(config)
    try:
        length = _tokens(named)
        if rope.get("rope_type", rope.get("type")) == "yarn":
            original = _tokens(rope.get("original_max_position_embeddings") or length)
            length = max(length, int(original * float(rope.get("factor") or 1.0)))
        return length
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(
            f"the model's configuration says max_position_embeddings {named!r:.60} and RoPE "
            f"settings {rope!r:.200}, which count no tokens; fetch the model again."
        ) from error


def known_context_length(config: Any) -> int:
    """`context_length` of a loaded model's configuration.

    Raises:
        ConfigError: it names none.
    """
    if (length := context_length(config)) is None:
        raise ConfigError(
            f"the configuration of this {config.model_type} model names no trained window "
            "(max_position_embeddings is None); set model.config.max_position_embeddings to "
            "the number of tokens that it was trained on."
        )
    return length


def rope_settings(config: Any) -> dict[str, Any]:
    """The rope section of a configuration: `rope_scaling` (4.x) or `rope_parameters` (5.x)."""
    for name in ("rope_parameters", "rope_scaling"):
        settings = _setting(config, name)
        if settings and isinstance(settings, Mapping):
            return dict(settings)
    return {}


def _setting(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


def _tokens(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < MOST:
        raise ValueError(value)
    return value

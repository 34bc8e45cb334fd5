"""Which layers of a model attend within a sliding window, as far as its configuration says."""

from __future__ import annotations

from typing import Any

# families without `layer_types` whose `sliding_window`, where it is set, is that of every layer
_IN_EVERY_LAYER = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2")


def full_layers(config: Any) -> list[int] | None:
    """Numbers of the layers that attend to the whole cache; None where the configuration (of
    transformers) does not say."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return [i for i, kind in enumerate(kinds) if kind != "sliding_attention"]
    if not getattr(config, "sliding_window", None):
        layers = getattr(config, "num_hidden_layers", None)
        return None if layers is None else list(range(layers))
    return [] if config.model_type in _IN_EVERY_LAYER else None

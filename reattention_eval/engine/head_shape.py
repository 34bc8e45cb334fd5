"""How wide a model's attention is, read from its configuration."""

from __future__ import annotations

from typing import Any, NamedTuple


class HeadShape(NamedTuple):
    """Query heads, KV heads and elements of a head, of the whole model."""

    heads: int
    kv_heads: int
    dim: int


def head_shape(config: Any, hidden: int) -> HeadShape | None:
    """Of the configuration of a text model `hidden` wide; None where it names no heads."""
    heads = getattr(config, "num_attention_heads", None)
    if not heads:
        return None
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return HeadShape(heads, kv_heads, getattr(config, "head_dim", None) or hidden // heads)

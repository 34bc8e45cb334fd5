"""What the hook needs to know of a transformers model, and whether it can serve it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import transformers
from torch import nn

from reattention_eval.attention.rope import IdentityRotary, Rotate
from reattention_eval.errors import ConfigError

SUPPORTED = ((4, 57), (6, 0))


@dataclass(frozen=True)
class Survey:
    """The parts of a model that the hook touches."""

    owner: nn.Module  # the decoder: holds the rotary module, is called once per forward
    layers: list[nn.Module]  # attention modules in layer order
    rotate: Rotate


def survey(model: nn.Module) -> Survey:
    """Find the parts; raises ConfigError with the reason where the hook cannot work."""
    check_transformers()
    name = type(model).__name__
    if any(isinstance(m, IdentityRotary) for m in model.modules()):
        raise ConfigError(
            f"this {name} already has a method attached; leave that `with attach(...)` block "
            "before attaching another."
        )
    owners = [m for m in model.modules() if isinstance(getattr(m, "rotary_emb", None), nn.Module)]
    if not owners:
        raise ConfigError(
            f"{name} has no rotary position embedding (no `rotary_emb` module), and the methods "
            "here renumber positions by RoPE; use a RoPE decoder such as Llama, Mistral or Qwen."
        )
    if len(owners) > 1:
        raise ConfigError(
            f"{name} keeps {len(owners)} rotary modules, one hook serves models with one shared by "
            "all layers; use a Llama, Mistral, Qwen2 or Qwen3 style checkpoint."
        )
    layers = _attention_layers(owners[0], name)
    rotate = getattr(sys.modules[type(layers[0]).__module__], "apply_rotary_pos_emb", None)
    if rotate is None:
        raise ConfigError(
            f"{name}: its model file has no `apply_rotary_pos_emb`, so the view's RoPE cannot be "
            "the model's own; use a model class that ships with transformers."
        )
    return Survey(owners[0], layers, rotate)


def check_transformers(version: str = transformers.__version__) -> None:
    """Raise ConfigError unless transformers is in the tested range."""
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in version.split(".")[:2])
    low, high = SUPPORTED
    if not low <= (major, minor) < high:
        raise ConfigError(
            f"transformers {version} is {'older' if (major, minor) < low else 'newer'} than this "
            f"hook was tested with; install one with: pip install 'transformers>={low[0]}.{low[1]},"
            f"<{high[0]}'."
        )


def _attention_layers(owner: Any, name: str) -> list[nn.Module]:
    layers: list[Any] = [
        m
        for m in owner.modules()
        if type(m).__name__.endswith("Attention") and hasattr(m, "scaling")
    ]
    layers = sorted(layers, key=lambda m: m.layer_idx)
    expected = owner.config.num_hidden_layers  # type: ignore[union-attr]
    if [m.layer_idx for m in layers] != list(range(expected)):
        raise ConfigError(
            f"{name}: found {len(layers)} attention modules for {expected} layers; the hook serves "
            "plain decoders with one self-attention per layer."
        )
    sliding = _sliding_layers(owner.config)
    if sliding:
        raise ConfigError(
            f"{name}: {len(sliding)} of {expected} layers attend within a sliding window and "
            "cannot be given a view; use a checkpoint without such layers (Mistral: v0.2 or later)."
        )
    return layers


def _sliding_layers(config: Any) -> list[int]:
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        windowed = getattr(config, "sliding_window", None) is not None
        kinds = ["sliding_attention" if windowed else "full_attention"] * config.num_hidden_layers
    return [layer for layer, kind in enumerate(kinds) if kind != "full_attention"]

"""What can be known before weights are read: whether the devices named are there, whether the model
is a RoPE decoder, whether its attention can run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reattention_eval.checkpoints.hub import first_line
from reattention_eval.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SPREAD = ("auto", "balanced", "balanced_low_0", "sequential")  # transformers' own words


def check_device_map(device_map: Any) -> None:
    """Raise ConfigError for a device that is no device, or that this machine lacks."""
    named = device_map.values() if isinstance(device_map, Mapping) else [device_map]
    for name in named:
        if name is not None and name != "disk" and name not in _SPREAD:
            _check(name, device_map)


def _check(name: Any, device_map: Any) -> None:
    import torch

    try:
        device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(
            f"device_map {device_map!r} names {name!r}, which is no device; give cpu, cuda:0, "
            f"{', '.join(_SPREAD)}, or a dict of modules and devices."
        ) from error
    if device.type != "cuda":
        return
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (device.index or 0) >= there:
        raise ConfigError(
            f"device_map {device_map!r} names {device}, and PyTorch sees {there} GPUs here; "
            'leave it out for the CPU, or take "auto".'
        )


def check_model(config: PretrainedConfig, source: Path | str, attention: str | None) -> None:
    """Raise for a model that no method can serve, or an attention that cannot run here."""
    import torch
    from transformers import AutoModelForCausalLM

    from reattention_eval.attention.refusals import check_kind

    def build(attention: str | None) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attention)

    refused = None
    try:
        try:
            model = build(attention)
        except (ImportError, ValueError) as error:
            model, refused = build("eager"), error
    except NotImplementedError:
        return  # computes with its weights while it is made (Apertus); attach looks again
    except ValueError as error:
        raise CheckpointError(
            f"{source} is a {config.model_type} model, which is no text decoder that transformers "
            f"knows ({first_line(error)}); use a causal language model with rotary positions."
        ) from error
    if not any(name.endswith("inv_freq") for name, _ in model.named_buffers()):
        raise CheckpointError(
            f"{source} is a {config.model_type} model, which has no rotary position embedding; "
            "use a RoPE decoder such as Llama, Mistral, Qwen2 or Qwen3."
        )
    check_kind(model)
    if refused is not None:
        raise ConfigError(
            f"attn_implementation={attention!r} cannot run here ({first_line(refused)}); leave it "
            "out for PyTorch's own."
        ) from refused

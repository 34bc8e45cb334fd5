"""What is no decoder that a method can be attached to: said before anything is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from reattention_eval.attention.rope import IdentityRotary, is_rotary
from reattention_eval.errors import ConfigError


def check_model(model: Any) -> None:
    """Raise ConfigError with the reason where `model` is no whole decoder with RoPE, ready to run.

    It must be a `transformers` causal language model: with its head, with its weights, not wrapped
    for data-parallel training, dropout off, no method attached yet.
    """
    if not isinstance(model, nn.Module):
        what = f"{model!r:.60}" if isinstance(model, str) else f"a {type(model).__name__}"
        raise ConfigError(
            f"attach takes a loaded model, found {what}; load one with "
            "AutoModelForCausalLM.from_pretrained, or `load_model` of this package."
        )
    name = type(model).__name__
    if isinstance(getattr(model, "module", None), nn.Module) and "Parallel" in name:
        raise ConfigError(
            f"the model is wrapped in {name}; attach to the model inside: its .module."
        )
    if not hasattr(getattr(model, "config", None), "to_dict"):
        raise ConfigError(
            f"{name} is no transformers model (it has no configuration); load one with "
            "AutoModelForCausalLM.from_pretrained."
        )
    check_kind(model)
    if any(parameter.is_meta for parameter in model.parameters()) and not _offloaded(model):
        raise ConfigError(
            f"this {name} has no weights (it lies on the meta device); load it with "
            "from_pretrained."
        )
    check_dropouts(dropouts(model), name)
    if any(isinstance(m, IdentityRotary) for m in model.modules()):
        raise ConfigError(
            f"this {name} already has a method attached; leave that `with attach(...)` block "
            "before attaching another."
        )


def dropouts(model: nn.Module) -> list[nn.Module]:
    """Modules that drop values at random while they train."""
    return [module for module in model.modules() if _dropout_rate(module) > 0]


def check_dropouts(modules: Iterable[nn.Module], name: str) -> None:
    """Raise ConfigError while one of the `dropouts` of a model of class `name` trains."""
    if any(module.training for module in modules):
        raise ConfigError(f"this {name} trains, with dropout; call model.eval() first.")


def _dropout_rate(module: nn.Module) -> float:
    """Of attention it is a number on the layer's module."""
    if isinstance(module, nn.Dropout):
        return module.p
    rates = (rate for name, rate in vars(module).items() if name.endswith("dropout"))
    return max((rate for rate in rates if isinstance(rate, float)), default=0.0)


def check_autocast(devices: Iterable[torch.device]) -> None:
    """Raise ConfigError inside a `torch.autocast` block that holds for one of these devices.

    It would compute in another dtype than the weights', and choose keys by scores of that dtype.
    """
    for kind in {device.type for device in devices} - {"meta"}:
        if torch.is_autocast_enabled(kind):
            raise ConfigError(
                f"torch.autocast to {torch.get_autocast_dtype(kind)} holds on {kind}, and a method "
                "computes in the dtype of the model's weights; leave autocast out, and convert the "
                f"model before it is attached: model.to({torch.get_autocast_dtype(kind)})."
            )


def check_kind(model: Any) -> None:
    """Raise ConfigError with the reason where no method can serve models of this kind; it may lie
    on the meta device."""
    config, name = model.config, type(model).__name__
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"{name} is an encoder-decoder model, and the methods here serve decoders alone; use a "
            "causal language model such as Llama, Mistral or Qwen."
        )
    text = config.get_text_config()
    if text is not config and text.model_type != config.model_type:
        raise ConfigError(_multimodal(name, text))
    if model.get_output_embeddings() is None:
        raise ConfigError(
            f"{name} has no language-model head, so it gives no logits; load the checkpoint with "
            "AutoModelForCausalLM."
        )
    if not any(is_rotary(m) or isinstance(m, IdentityRotary) for m in model.modules()):
        raise ConfigError(
            f"{name} has no rotary position embedding (no module with RoPE frequencies), and the "
            "methods here renumber positions by RoPE; use a RoPE decoder such as Llama, Mistral or "
            "Qwen."
        )
    if config.to_dict().get("kv_lora_rank"):
        raise ConfigError(
            f"{name} has multi-head latent attention (one low-rank latent in the place of keys and "
            "values, RoPE on a part of its own), which the methods' cache of keys and values does "
            "not hold; use a decoder with plain or grouped-query attention."
        )
    if "input_ids" not in inspect.signature(type(model).forward).parameters:
        raise ConfigError(f"{name} does not read token ids; use a causal language model.")


def _multimodal(name: str, text: Any) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as NAMES

    alone = NAMES.get(text.model_type)
    cure = (
        f"load its text model alone: transformers.{alone}.from_pretrained"
        if alone and alone != name
        else "transformers has no class for its text model alone: use a text-only checkpoint"
    )
    return (
        f"{name} joins its text decoder with other parts (images, sound), and the methods here "
        f"serve the decoder alone; {cure}."
    )


def _offloaded(model: nn.Module) -> bool:
    """accelerate keeps the weights of an offloaded module elsewhere until it runs."""
    return any(hasattr(m, "_hf_hook") for m in model.modules())

"""Random weights as 8-bit integers, made layer by layer, of shapes too large for 16 bit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from reattention_eval.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def require_torchao() -> None:
    """Raise ConfigError where it is not installed."""
    try:
        from torchao.quantization import Int8WeightOnlyConfig  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"int8 weights are torchao's, which does not load here ({error}); "
            "pip install 'reattention-eval[torchao]'."
        ) from error


def int8_model(settings: Any, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The linear layers of all blocks in torchao's weight-only int8, a scale a row, as transformers
    loads such checkpoints; embeddings and head in `dtype`. At no time is more than one block in 16
    bit.

    Args:
        settings: a configuration of transformers.
    """
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            settings, dtype=dtype, attn_implementation="sdpa"
        )
    rotary = model.model.rotary_emb  # its buffers are computed, not drawn
    model.model.rotary_emb = type(rotary)(model.config).to(device)
    for block in model.model.layers:
        _draw(block, device, settings.initializer_range)
        quantize_(block, Int8WeightOnlyConfig())
    for module in model.modules():
        if any(weight.is_meta for weight in module.parameters(recurse=False)):
            _draw(module, device, settings.initializer_range)
    model.tie_weights()
    return model.eval()  # type: ignore[no-any-return]


def _draw(module: torch.nn.Module, device: torch.device, spread: float) -> None:
    module.to_empty(device=device)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias"):
                weight.zero_()
            elif weight.ndim == 1:
                weight.fill_(1)  # of a norm
            else:
                weight.normal_(0, spread)

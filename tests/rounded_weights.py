"""A quantiser of transformers that needs no library: linear weights on a grid of eight bits a row.

It is registered as transformers' own are, so everything between a configuration and the model is
what a library's goes through.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

METHOD = "rounded"


@register_quantization_config(METHOD)
class RoundedConfig(QuantizationConfigMixin):
    def __init__(self, levels: int = 127, **_: Any) -> None:
        self.quant_method = METHOD
        self.levels = levels
        if levels < 1:
            raise ValueError(f"levels must be from 1 on, not {levels}.")


@register_quantizer(METHOD)
class RoundedQuantizer(HfQuantizer):
    requires_calibration = False

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> Any:
        return model

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and name != "lm_head":
                rounded(module.weight, self.quantization_config.levels)
        return model

    def is_serializable(self, *_: Any, **__: Any) -> bool:
        return False

    @property
    def is_trainable(self) -> bool:
        return False


@torch.no_grad()
def rounded(weight: torch.Tensor, levels: int) -> None:
    """To `levels` steps either side of zero in each row, in place."""
    scale = weight.abs().amax(1, keepdim=True) / levels
    weight.copy_((weight / scale).round() * scale)

"""Weights stay what and where they are while a method is attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.model_patch import OwnForward
from reattention_eval.errors import ConfigError


def fixed_weights(model: nn.Module) -> OwnForward:
    """Stands in for what `model.to`, `half`, `cuda` and the like go through: what changes nothing
    is let pass, and anything else refused before it has begun. Keys already stored are of the
    weights' dtype and on their devices, and captured decode steps read the weights where they lie.
    """

    def apply(change: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        with torch.no_grad():
            for name, weight in (*model.named_parameters(), *model.named_buffers()):
                if change(weight) is not weight:
                    raise ConfigError(
                        f"{type(model).__name__} was to be converted or moved ({name} is "
                        f"{weight.dtype} on {weight.device}) inside its `with attach(...)` block; "
                        "leave the block, convert the model, and attach again."
                    )
        return model

    return OwnForward(model, "_apply", apply)

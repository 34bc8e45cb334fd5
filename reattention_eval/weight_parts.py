"""What weights are made of, quantised ones too."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def weight_parts(weight: Tensor) -> Iterator[Tensor]:
    """The weight, or what a quantised one is made of: integers, scales."""
    if not is_traceable_wrapper_subclass(weight):
        yield weight
        return
    for name in weight.__tensor_flatten__()[0]:
        yield from weight_parts(getattr(weight, name))


def held_bytes(model: torch.nn.Module) -> int:
    """Of all weights; of quantised ones what they take, not what they stand for."""
    parts = (part for weight in model.parameters() for part in weight_parts(weight))
    return sum(part.numel() * part.element_size() for part in parts)

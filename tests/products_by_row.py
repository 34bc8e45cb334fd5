"""Models whose products of a token do not depend on the tokens beside it.

A processor's matrix product rounds a row by where it lies in a tile. Equal tokens then have keys of
the first layer that differ in the last place, and which of them is chosen depends on the forward.
"""

from __future__ import annotations

import types

import torch
from torch import nn


def products_by_row(model: nn.Module) -> nn.Module:
    """The model itself, every linear layer a sum for each token and output."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.forward = types.MethodType(_by_row, module)
    return model


def _by_row(self: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    out = (x[..., None, :] * self.weight).sum(-1)
    return out if self.bias is None else out + self.bias

"""Products as other processors round them: by where a row lies in a tile."""

from __future__ import annotations

import torch

_mm = torch.mm


def rounding_by_row(
    left: torch.Tensor, right: torch.Tensor, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """`torch.mm`, off by up to two last places: another number in each of five rows."""
    out = _mm(left, right, out=out)
    places = torch.arange(out.shape[0], device=out.device) % 5 - 2
    return out.mul_(1 + places[:, None] * torch.finfo(out.dtype).eps)

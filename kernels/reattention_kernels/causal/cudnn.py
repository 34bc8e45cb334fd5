"""cuDNN's attention through PyTorch. It masks at the upper left only, so a chunk is two parts."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.causal.launch import join_parts

OPERATOR = "_scaled_dot_product_cudnn_attention"


def attend_cudnn(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    _mask: object = None,
) -> Tensor:
    """Same contract as `attend_causal`, without `lengths`.

    Of a chunk: the keys before it, unmasked, and its own, causal; joined by their log-sums. So the
    bits depend on where a chunk begins, and each N is a plan that cuDNN builds at its first call:
    for whole prompts and for comparison.
    """
    t, n = query.shape[2], key.shape[2]
    own = key[:, :, n - t :], value[:, :, n - t :]
    if t == n:
        return out.copy_(_part(query, *own, scale, True)[0])
    before = _part(query, key[:, :, : n - t], value[:, :, : n - t], scale, False)
    return join_parts(before, _part(query, *own, scale, True), out)


def _part(
    query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor]:
    """The answer and the logarithms of its sums."""
    given = query, key, value, None, True, 0.0, causal, False
    out, logs = getattr(torch.ops.aten, OPERATOR)(*given, scale=scale)[:2]
    return out, logs

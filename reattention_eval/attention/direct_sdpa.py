"""Attention modules that call PyTorch's attention by themselves, not by name (as in 4.57)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Attend = Callable[..., tuple[Tensor, Any]]  # as transformers registers it


class SdpaAsRegistered(TorchFunctionMode):
    """Hands calls of `scaled_dot_product_attention` inside to a registered attention function.

    Args:
        attend: the function; called with the module, its mask, and `is_causal`.
        module: who is calling.
        group: query heads of a KV head, where keys and values come repeated for them.
    """

    def __init__(self, attend: Attend, module: Callable[[], Any], group: int = 1) -> None:
        super().__init__()
        self._attend, self._module, self._group = attend, module, group

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self._answer(*args, **(kwargs or {}))

    def _answer(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if key.shape[1] == query.shape[1]:
            key, value = key[:, :: self._group], value[:, :: self._group]
        causal = is_causal or attn_mask is not None or query.shape[2] == 1
        out, _ = self._attend(
            self._module(), query, key, value, attn_mask,
            scaling=scale, dropout=dropout_p, is_causal=causal,
        )  # fmt: skip
        return out.transpose(1, 2)  # [B, T, H, D] -> [B, H, T, D]


def answered_by(module: nn.Module, attend: Attend, group: int) -> Callable[..., Any]:
    """A forward for `module` that is its own but for the attention."""
    own = module.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        with SdpaAsRegistered(attend, lambda: module, group):
            return own(*args, **kwargs)

    return forward

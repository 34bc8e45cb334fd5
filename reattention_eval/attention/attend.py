"""Causal attention of a chunk over its view, aligned to the lower right."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from reattention_kernels.backend import use_triton
from reattention_kernels.view import attend_whole, takes_whole

try:
    from flash_attn import flash_attn_func
except ImportError:
    flash_attn_func = None


FLASH_DTYPES = (torch.float16, torch.bfloat16)


class ViewAttention:
    """Attention over views: the chunk's T queries are the last T of the view's n keys.

    On CUDA a decode step is our own kernel, the same work at every length; for a chunk flash-attn
    when it is installed, else PyTorch's own flash kernel. On a CPU the fused SDPA kernel with a
    mask that is built once and sliced.
    """

    def __init__(self) -> None:
        self._mask: Tensor | None = None

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        device_length: Tensor | None = None,
    ) -> Tensor:
        """query [H, T, D], key and value [Hkv, n, D] -> [H, T, D].

        device_length: int32 [1], only the first so many of the n keys exist.
        """
        if query.dtype in FLASH_DTYPES and takes_whole(query, key) and use_triton(query):
            return attend_whole(query[None], key[None], value[None], scale, device_length)[0]
        if device_length is not None:
            key, value = key[:, : int(device_length)], value[:, : int(device_length)]
        if flash_attn_func is not None and query.is_cuda and query.dtype in FLASH_DTYPES:
            q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))  # [1, T, H, D]
            out = flash_attn_func(q, k, v, softmax_scale=scale, causal=True)
            return out[0].transpose(0, 1)
        h, t, d = query.shape
        hkv, n, _ = key.shape
        q = query.reshape(hkv, h // hkv, t, d)
        k, v = (x[:, None].expand(-1, h // hkv, -1, -1) for x in (key, value))
        mask: Any
        if t == 1:
            mask = None
        elif query.is_cuda:
            mask = causal_lower_right(t, n)
        else:
            mask = self._lower_right_mask(t, n, query)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).reshape(h, t, d)

    def _lower_right_mask(self, t: int, n: int, like: Tensor) -> Tensor:
        """Additive [t, n]: the lower right corner of a wider mask serves every t and n."""
        held = self._mask
        if held is None or held.dtype != like.dtype or held.shape[0] < t or held.shape[1] < n:
            rows, columns = t, n + n // 4
            held = like.new_full((rows, columns), -torch.inf).triu_(columns - rows + 1)
            self._mask = held
        return held[held.shape[0] - t :, held.shape[1] - n :]

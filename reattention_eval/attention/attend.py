"""Causal attention of a chunk over its view, aligned to the lower right."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import use_triton
from reattention_kernels.causal import LowerRightMask, attend_causal, backend_name
from reattention_kernels.view import attend_whole, takes_whole

FLASH_DTYPES = (torch.float16, torch.bfloat16)


class ViewAttention:
    """Attention over views: the chunk's T queries are the last T of the view's n keys.

    On CUDA a decode step is our own kernel, the same work at every length; a chunk is the fastest
    attention that is there (`reattention_kernels.causal.causal_backends`). On a CPU the fused SDPA
    kernel with a mask that is built once and sliced.
    """

    def __init__(self) -> None:
        self._mask = LowerRightMask()

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        device_length: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """query [H, T, D], key and value [Hkv, n, D] -> [H, T, D].

        Rows that hold alike are so many more heads.

        device_length: int32 [1], only the first so many of the n keys exist.
        out: [H, T, D] of query's dtype, written and returned: any strides, the last 1.
        """
        given = query[None], key[None], value[None], scale, device_length
        target = None if out is None else out[None]
        if query.dtype in FLASH_DTYPES and takes_whole(query, key) and use_triton(query):
            return attend_whole(*given, target)[0]
        # a decode step that is launched is answered by what answers it where it is repeated
        step = query.is_cuda and query.shape[1] == 1
        name = backend_name(given[0], limited=True) if step else None
        return attend_causal(*given, target, mask=self._mask, backend=name)[0]

"""Causal attention over a whole cache, aligned to the lower right, by the fastest that is here.

`attend_causal`; `causal_backends` says what is here and what is chosen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.causal.choice import (
    BACKENDS,
    attention_of_device,
    backend_name,
    causal_backends,
)
from reattention_kernels.causal.naive import attend_causal_naive
from reattention_kernels.causal.sdpa import LowerRightMask

__all__ = [
    "BACKENDS",
    "LowerRightMask",
    "attend_causal",
    "attend_causal_naive",
    "attention_of_device",
    "backend_name",
    "causal_backends",
]


def attend_causal(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None = None,
    out: Tensor | None = None,
    *,
    padded: bool = False,
    backend: str | None = None,
    mask: LowerRightMask | None = None,
) -> Tensor:
    """The T queries are the last T of the keys: query t sees all but the T - 1 - t last of them.

    Which backend answers depends on the device, the dtype, D and whether `lengths` are given, never
    on T or N, and none of the chosen ones splits the keys of a query by how many queries there
    are: with "fa3" and "triton" a query's answer has the same bits in every grouping.

    Args:
        query: [B, H, T, D], T >= 1.
        key, value: [B, Hkv, N, D], N >= T, of any strides; may be expanded over B (stride 0).
        scale: factor of the scores.
        lengths: int32 [1] or [B] on the device, each at least T: only the first so many keys of an
            entry exist, and the queries are the last of those. Not waited for on a GPU.
        out: [B, H, T, D] of query's dtype, written and returned: any strides, the last 1.
        padded: what lies behind `lengths` is finite. FlashAttention-3 multiplies it by zero.
        backend: one of `BACKENDS`, instead of the chosen one.
        mask: of a caller that comes again, for the CPU.

    Returns:
        [B, H, T, D] of query's dtype; without `out` in [B, T, H, D] order, as models want it.

    Raises:
        ValueError: shapes that do not fit; a `backend` that is not here or does not take the call.
    """
    _check(query, key, value, lengths, out)
    query, key, value = (x if x.stride(3) == 1 else x.contiguous() for x in (query, key, value))
    if out is None:
        b, h, t, d = query.shape
        out = query.new_empty(b, t, h, d).transpose(1, 2)
    if not query.is_cuda:
        if backend not in (None, "torch"):
            raise ValueError(f"{backend!r} needs a CUDA device, found {query.device}.")
        return BACKENDS["torch"].attend(query, key, value, scale, lengths, out, mask)
    name = backend_name(query, lengths is not None, padded, backend)
    with torch.cuda.device_of(query):
        return BACKENDS[name].attend(query, key, value, scale, lengths, out, mask)


def _check(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, out: Tensor | None
) -> None:
    (b, h, t, d), (kb, kv_heads, n, kd) = query.shape, key.shape
    if (kb, kd) != (b, d) or key.shape != value.shape or kv_heads == 0 or h % kv_heads:
        raise ValueError(
            f"query {list(query.shape)}, key {list(key.shape)} and value {list(value.shape)} do "
            "not fit: [B, H, T, D], twice [B, Hkv, N, D], H a multiple of Hkv."
        )
    if not 0 < t <= n:
        raise ValueError(f"{t} queries cannot be the last of {n} keys.")
    if lengths is not None and (lengths.dtype != torch.int32 or lengths.numel() not in (1, b)):
        raise ValueError(
            f"lengths are {lengths.dtype} {list(lengths.shape)}, not int32 [1] or [{b}]."
        )
    if out is not None and (
        out.shape != query.shape or out.dtype != query.dtype or out.stride(3) != 1
    ):
        raise ValueError(
            f"out is {out.dtype} {list(out.shape)} of strides {out.stride()}, not {query.dtype} "
            f"{list(query.shape)} with a last stride of 1."
        )

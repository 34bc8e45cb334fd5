"""Attention over a part of the cache with RoPE, and over the whole of it in a decode step.

`attend_view` and `attend_whole`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import TRITON_DTYPES, use_triton
from reattention_kernels.causal.naive import attend_causal_naive
from reattention_kernels.view.naive import (
    SelectedView,
    ViewValues,
    attend_view_naive,
    view_rows,
    view_values,
)

__all__ = [
    "SelectedView",
    "ViewValues",
    "attend_view",
    "attend_view_naive",
    "attend_whole",
    "takes_whole",
    "view_rows",
    "view_values",
]

DECODE_ROWS = 16  # rows (query heads of a KV head x queries) that one program takes
HEAD_DIMS = (16, 256)


def attend_view(
    query: Tensor,
    key: Tensor,
    value: Tensor | ViewValues,
    view: SelectedView,
    scale: float,
    device_length: Tensor | None = None,
    out: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    """Attention of chunks over global + selected + local keys, whose number the device knows.

    A view's keys get RoPE at 0..n-1 in view order, the queries at the last T positions; n =
    global_size + count + local_size. Design: ReAttention (arXiv 2407.15176), section 3.

    B entries are rows, or chunks of one row that share its keys: `key` and `value` expanded over B,
    and a length each. An entry has the same bits alone and among others. On a GPU a chunk holds its
    view meanwhile: 2 x B x Hkv x (global_size + W + local_size) x D elements.

    Args:
        query: [B, H, T, D], un-rotated; T <= local_size.
        key, value: [B, Hkv, N, D], the whole cache with the chunk appended, un-rotated; of values
            that are not all on the device, those of the views.
        view: what is selected, and the RoPE tables.
        scale: factor of the scores.
        device_length: int32 [1] or [B], only the first so many keys of an entry exist; for calls
            that a CUDA graph repeats, and for chunks of one row.
        out: [B, H, T, D] of query's dtype, written and returned: any strides, the last 1.
        counted: int64 [1] or [B], to which the number of selected keys is added.

    Returns:
        [B, H, T, D] of query's dtype.
    """
    if use_triton(query, _refusal(query)):
        from reattention_kernels.view.launch import attend_view_triton

        with torch.cuda.device_of(query):
            return attend_view_triton(query, key, value, view, scale, device_length, out, counted)
    if counted is not None:
        counted += view.counts if len(counted) > 1 else view.counts.sum()
    return _into(out, attend_view_naive(query, key, value, view, scale, device_length))


def takes_whole(query: Tensor, key: Tensor) -> bool:
    """Whether `attend_whole` serves these shapes on a GPU: few queries, as in a decode step."""
    h, t, d = query.shape[-3:]
    few = t * (h // key.shape[-3]) <= DECODE_ROWS
    return few and d % 2 == 0 and HEAD_DIMS[0] <= d <= HEAD_DIMS[1]


def attend_whole(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    device_length: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention of a cache's last T tokens over all of it; no RoPE; few queries.

    The keys are split over the GPU (Flash-Decoding: Dao et al., 2023,
    pytorch.org/blog/flash-decoding). For many queries: `reattention_kernels.causal`.

    Args:
        query: [B, H, T, D], T >= 1, for which `takes_whole` holds.
        key, value: [B, Hkv, N, D], the cache with the T tokens appended.
        scale: factor of the scores.
        device_length: int32 [1] or [B], only the first so many keys exist; for calls that a CUDA
            graph repeats.
        out: [B, H, T, D] of query's dtype, written and returned: any strides, the last 1.

    Returns:
        [B, H, T, D] of query's dtype.
    """
    if use_triton(query, _refusal(query)):
        from reattention_kernels.view.launch import attend_whole_triton

        with torch.cuda.device_of(query):
            return attend_whole_triton(query, key, value, scale, device_length, out)
    return _into(out, attend_causal_naive(query, key, value, scale, device_length))


def _into(out: Tensor | None, answer: Tensor) -> Tensor:
    return answer if out is None else out.copy_(answer)


def _refusal(query: Tensor) -> str | None:
    """Why the Triton forms do not take a call; None where they do."""
    if query.dtype not in TRITON_DTYPES:
        return f"the view's kernels do not take {query.dtype}"
    return None

"""The k keys with the largest q.k for every query: `topk_keys`."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import TRITON_DTYPES, use_triton
from reattention_kernels.lengths import check_lengths, entry_lengths
from reattention_kernels.topk_keys.blockwise import topk_keys_blockwise
from reattention_kernels.topk_keys.naive import topk_keys_naive

MODES = ("exact", "block_max")
MAX_K = 16
MIN_HEAD_DIM, MAX_HEAD_DIM = 16, 256

__all__ = [
    "MODES",
    "topk_keys",
    "topk_keys_blockwise",
    "topk_keys_naive",
]


def topk_keys(
    query: Tensor,
    key: Tensor,
    k: int = 4,
    mode: str = "exact",
    device_length: Tensor | None = None,
    less: int = 0,
) -> Tensor:
    """Positions of the k keys with the largest dot product, for every query of every head.

    Scores are accumulated in float32 (float64 inputs: in float64), never in TF32; neither side is
    scaled. Query head h reads KV head h // (H / Hkv). Equal scores: lower position first.
    ReAttention (arXiv 2407.15176), section 3.

    Args:
        query: [B, H, T, D], un-rotated.
        key: [B, Hkv, N, D], un-rotated; may be a strided view into a larger cache, and entries
            of the batch may share their storage (batch stride 0): chunks of one row.
        k: keys per query, at least 1.
        mode: "exact", or "block_max": the released approximation, in which at most one key of
            every 128 can be chosen.
        device_length: int32 [1], or [B] for each entry: only the first so many keys exist; for
            calls that a CUDA graph repeats, and for chunks that see different parts of a row.
        less: so many less than device_length says, so that one number serves a row and its middle.

    Returns:
        int32 [B, H, T, k], best first; -1 where fewer than k keys exist.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit together.
    """
    _check(query, key, k, mode)
    check_lengths(device_length, query.shape[0])
    if use_triton(query, triton_refusal(query, k)):
        from reattention_kernels.topk_keys.triton import topk_keys_triton

        with torch.cuda.device_of(query):
            return topk_keys_triton(query, key, k, mode, device_length, less=less)
    if device_length is None:
        return topk_keys_blockwise(query, key, k, mode)
    winners = torch.empty(*query.shape[:3], k, dtype=torch.int32, device=query.device)
    for entry, length in enumerate(entry_lengths(device_length, query.shape[0], less)):
        some = slice(entry, entry + 1)
        winners[some] = topk_keys_blockwise(query[some], key[some, :, :length], k, mode)
    return winners


def triton_refusal(query: Tensor, k: int) -> str | None:
    """Why the Triton form does not take a call; None where it does."""
    if k > MAX_K:
        return f"the kernel keeps at most {MAX_K} keys per query, found top_k {k}"
    if not MIN_HEAD_DIM <= query.shape[3] <= MAX_HEAD_DIM:
        return f"the kernel takes head_dim {MIN_HEAD_DIM} to {MAX_HEAD_DIM}, found {query.shape[3]}"
    if query.dtype not in TRITON_DTYPES:
        return f"the kernel does not take {query.dtype}"
    return None


def _check(query: Tensor, key: Tensor, k: int, mode: str) -> None:
    if query.ndim != 4 or key.ndim != 4:
        raise ValueError(
            f"topk_keys takes query [B, H, T, D] and key [B, Hkv, N, D]; "
            f"found {tuple(query.shape)} and {tuple(key.shape)}."
        )
    if query.shape[0] != key.shape[0] or query.shape[3] != key.shape[3]:
        raise ValueError(
            f"query and key must agree in batch and head_dim; "
            f"found {tuple(query.shape)} and {tuple(key.shape)}."
        )
    if key.shape[1] == 0 or query.shape[1] % key.shape[1]:
        raise ValueError(
            f"{query.shape[1]} query heads do not divide over {key.shape[1]} KV heads; "
            "the number of query heads must be a multiple of it."
        )
    if query.dtype != key.dtype or not query.dtype.is_floating_point:
        raise ValueError(
            f"query and key must have one floating-point dtype; "
            f"found {query.dtype} and {key.dtype}."
        )
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}.")
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; there are: {', '.join(MODES)}.")

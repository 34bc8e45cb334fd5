"""Reference forms of `attend_view` and `attend_whole`: whole score matrices."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SelectedView(NamedTuple):
    """A view of global, selected and local keys, and the RoPE tables of its places.

    positions: int32 [B, W] as `select_positions` gives them, counted from global_size;
    counts: int32 [B], how many of them are real; cos, sin: [>= n, D] for every n = global_size +
    counts + local_size that counts can bring about.
    """

    positions: Tensor
    counts: Tensor
    cos: Tensor
    sin: Tensor
    global_size: int
    local_size: int


def attend_view_naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    view: SelectedView,
    scale: float,
) -> Tensor:
    """Same contract as `reattention_kernels.attend_view`."""
    positions, count, cos, sin, global_size, local_size = view
    rows = []
    for b in range(query.shape[0]):
        chosen = view_rows(positions[b], int(count[b]), key.shape[2], global_size, local_size)
        n, t = chosen.numel(), query.shape[2]
        k = rotate(key[b][:, chosen], cos[:n], sin[:n])
        q = rotate(query[b], cos[n - t : n], sin[n - t : n])
        rows.append(attend_whole_naive(q[None], k[None], value[b : b + 1][:, :, chosen], scale)[0])
    return torch.stack(rows)


def attend_whole_naive(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Same contract as `reattention_kernels.view.attend_whole`, in float32 or finer."""
    exact = torch.promote_types(query.dtype, torch.float32)
    group, t, n = query.shape[1] // key.shape[1], query.shape[2], key.shape[2]
    q, k, v = query.to(exact), key.to(exact), value.to(exact)
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = (q @ k.transpose(2, 3)) * scale  # [B, H, T, n]
    places = torch.arange(n, device=q.device)
    weights = scores.masked_fill(places > places[n - t :, None], -torch.inf).softmax(-1)
    return (weights @ v).to(query.dtype)


def view_rows(positions: Tensor, count: int, n: int, global_size: int, local_size: int) -> Tensor:
    """Cache rows of a view, ascending: global, selected (counted from the global end), local."""
    device = positions.device
    first = torch.arange(global_size, device=device)
    last = torch.arange(n - local_size, n, device=device)
    return torch.cat((first, positions[:count].long() + global_size, last))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE in the half-split form of Llama, computed in float32; x [.., n, D], tables [n, D]."""
    half = x.shape[-1] // 2
    x32 = x.float()
    rotated = torch.cat((-x32[..., half:], x32[..., :half]), -1)
    return (x32 * cos.float() + rotated * sin.float()).to(x.dtype)

"""Reference form of `attend_view`: one batch row at a time, whole score matrices."""

from __future__ import annotations

import torch
from torch import Tensor


def attend_view_naive(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    positions: Tensor,
    count: Tensor,
    cos: Tensor,
    sin: Tensor,
    global_size: int,
    local_size: int,
    scale: float,
) -> Tensor:
    """Same contract as `reattention_kernels.attend_view`."""
    group = query.shape[1] // key.shape[1]
    rows = []
    for b in range(query.shape[0]):
        chosen = view_rows(positions[b], int(count[b]), key.shape[2], global_size, local_size)
        n, t = chosen.numel(), query.shape[2]
        k = rotate(key[b][:, chosen], cos[:n], sin[:n]).repeat_interleave(group, 0)
        v = value[b][:, chosen].repeat_interleave(group, 0)
        q = rotate(query[b], cos[n - t : n], sin[n - t : n])
        scores = (q.float() @ k.float().transpose(1, 2)) * scale  # [H, T, n]
        visible = (
            torch.arange(n, device=q.device) <= torch.arange(n - t, n, device=q.device)[:, None]
        )
        weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
        rows.append((weights @ v.float()).to(query.dtype))
    return torch.stack(rows)


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
    turned = torch.cat((-x32[..., half:], x32[..., :half]), -1)
    return (x32 * cos.float() + turned * sin.float()).to(x.dtype)

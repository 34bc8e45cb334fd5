"""Reference form of `attend_view`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from reattention_kernels.causal.naive import attend_causal_naive, host_lengths
from reattention_kernels.values import recent_rows


class SelectedView(NamedTuple):
    """A view of global, selected and local keys, and the RoPE tables of its places.

    positions: int32 [B, W] as `select_positions` gives them, counted from global_size;
    counts: int32 [B], how many of them are real; cos, sin: [>= n, D] for every n = global_size +
    counts + local_size that counts can bring about; alike: whether both halves of each of their
    rows are the same, so that a kernel may read one.
    """

    positions: Tensor
    counts: Tensor
    cos: Tensor
    sin: Tensor
    global_size: int
    local_size: int
    alike: bool = False


class ViewValues(NamedTuple):
    """The values of views, where the cache's own are not all on the device.

    recent: [B, Hkv, R, D], `first`: as in `reattention_kernels.values.SplitValues`; they hold a
        view's global and local part. chosen: [B, Hkv, W, D], the values of the selected positions,
        in their order. halves: `chosen` is [2, Hkv, W, D], and counts by device_length % 2.
    """

    recent: Tensor
    first: int
    chosen: Tensor
    halves: bool = False


def attend_view_naive(
    query: Tensor,
    key: Tensor,
    value: Tensor | ViewValues,
    view: SelectedView,
    scale: float,
    lengths: Tensor | None = None,
) -> Tensor:
    """Same contract as `reattention_kernels.attend_view`."""
    positions, count, cos, sin, global_size, local_size, _ = view
    rows = []
    for b, length in enumerate(host_lengths(key, lengths)):
        chosen = view_rows(positions[b], int(count[b]), length, global_size, local_size)
        n, t = chosen.numel(), query.shape[2]
        k = rotate(key[b][:, chosen], cos[:n], sin[:n])
        q = rotate(query[b], cos[n - t : n], sin[n - t : n])
        v = view_values(value, b, chosen, int(count[b]), length, global_size)
        rows.append(attend_causal_naive(q[None], k[None], v[None], scale)[0])
    return torch.stack(rows)


def view_values(
    value: Tensor | ViewValues, b: int, chosen: Tensor, count: int, length: int, global_size: int
) -> Tensor:
    """Entry b's values [Hkv, n, D] at the cache rows of a view, `count` of them selected."""
    if isinstance(value, Tensor):
        return value[b, :, chosen]
    recent = value.recent[b]
    found = recent[:, recent_rows(chosen, value.first, recent.shape[1])]
    entry = length % 2 if value.halves else b
    found[:, global_size : global_size + count] = value.chosen[entry, :, :count]
    return found


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

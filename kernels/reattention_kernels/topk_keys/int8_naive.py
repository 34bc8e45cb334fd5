"""Reference form of the 8-bit scan: every bound at once."""

from __future__ import annotations

import torch
from torch import Tensor

NO_KEY = -(2.0**30)


def bounds_naive(rotated: Tensor, terms: Tensor, keys: Tensor, blocks: Tensor, n: Tensor) -> Tensor:
    """float32 [B * Hkv, rows, blocks], what the scan compares with the row's threshold.

    rotated int8 [B, Hkv, rows, D], terms [B * Hkv, rows, 4], keys int8 [B or 1, Hkv, capacity, D],
    blocks [B * Hkv or Hkv, tiles, 3, 4], n int32 [B].
    """
    b, kv_heads, n_rows, d = rotated.shape
    n_tiles = -(-int(n.max()) // 128)
    q = rotated.reshape(-1, n_rows, d).double()
    k = keys[:, :, : n_tiles * 128].expand(b, -1, -1, -1).reshape(-1, n_tiles * 128, d).double()
    scores = q @ k.transpose(1, 2)
    limit = n.repeat_interleave(kv_heads)[:, None, None]
    scores = torch.where(torch.arange(n_tiles * 128) < limit, scores, NO_KEY)
    most = scores.reshape(*scores.shape[:2], n_tiles, 16, 4, 2).amax((3, 5)).float()
    index = torch.arange(b * kv_heads) % blocks.shape[0]
    scale, key_error, key_norm = blocks[index][:, None, :n_tiles].unbind(3)
    query_norm, query_error = terms[..., 1, None, None], terms[..., 2, None, None]
    bounds = most * scale + (query_norm * key_error + query_error * key_norm)
    tile = torch.arange(n_tiles)[None, None, :, None]  # a scan ends with an entry's own last tile
    return bounds.where(tile * 128 < limit[..., None], -torch.inf).flatten(2)


def emit_blocks_naive(
    rotated: Tensor,
    terms: Tensor,
    keys: Tensor,
    blocks: Tensor,
    n: Tensor,
    per_split: int,
    room: int,
    wanted: Tensor,
) -> tuple[Tensor, Tensor]:
    """What `emit_blocks_gluon` gives, per_split counting tiles of 128 keys."""
    bounds = bounds_naive(rotated, terms, keys, blocks, n)
    reached = ~(bounds < terms[..., :1])
    tiles = reached.unflatten(-1, (-1, 4))
    tiles = torch.nn.functional.pad(tiles, (0, 0, 0, -tiles.shape[2] % per_split))
    by_lane = tiles.unflatten(2, (-1, per_split)).transpose(3, 4).flatten(2, 3)
    counts = by_lane.sum(-1, dtype=torch.int32)  # [pairs, rows, splits * 4]
    in_split = torch.arange(per_split * 4, dtype=torch.int32).view(-1, 4).T
    ids = in_split.repeat(by_lane.shape[2] // 4, 1).expand_as(by_lane)
    # the reached ones first, each part in order
    order = (~by_lane).to(torch.int8).argsort(dim=-1, stable=True)
    ids = torch.nn.functional.pad(ids.gather(-1, order), (0, room))[..., :room]
    written = torch.arange(room) < counts[..., None]
    first = torch.arange(by_lane.shape[2]) // 4 * (per_split * 4)
    for pair in range(len(ids)):
        of_index = wanted[pair % len(wanted)]
        found = (ids[pair] + first[:, None])[written[pair]]
        of_index += found.bincount(minlength=len(of_index)).to(torch.int32)
    return ids.to(torch.int16).contiguous(), counts

"""Reference form of the 8-bit scan: every bound at once."""

from __future__ import annotations

import torch
from torch import Tensor


def best_bounds_naive(
    rotated: Tensor, terms: Tensor, keys: Tensor, blocks: Tensor, size: int
) -> Tensor:
    """What `best_blocks_hopper` gives for int8 inputs and one split: int64 [B*Hkv, rows, 4 * size].

    rotated int8 [B, Hkv, rows, D], terms [B*Hkv, rows, 4], keys int8 [B, Hkv, N, D],
    blocks [B*Hkv, tiles, 3, 4].
    """
    n_rows, d = rotated.shape[2:]
    n = keys.shape[2]
    n_tiles = -(-n // 128)
    q = rotated.reshape(-1, n_rows, d).double()
    k = keys.reshape(-1, n, d).double()
    scores = torch.nn.functional.pad(
        q @ k.transpose(1, 2), (0, n_tiles * 128 - n), value=-(2.0**30)
    )
    most = scores.reshape(*scores.shape[:2], n_tiles, 16, 4, 2).amax((3, 5)).float()
    scale, error, length = blocks[:, None, :n_tiles].unbind(3)  # [pairs, 1, tiles, 4]
    key_error, key_size = terms[..., 2, None, None], terms[..., 3, None, None]
    bounds = most * scale + key_error * error + key_size * length  # [pairs, rows, tiles, 4]
    bits = (bounds + 0.0).view(torch.int32)
    ordered = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).long()
    ids = torch.arange(n_tiles * 4, device=keys.device).view(n_tiles, 4)
    packed = (ordered << 32) | (0x7FFFFFFF - ids)
    packed = packed.transpose(2, 3).sort(-1, descending=True).values[..., :size]
    packed = torch.nn.functional.pad(packed, (0, max(0, size - n_tiles)), value=-(2**63))
    return packed.flatten(2).contiguous()

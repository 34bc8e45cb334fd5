"""An 8-bit index of the keys, kept beside the cache: half the bytes, twice the product's rate.

A key k is stored as int8 of b = H (k - mean): H the +-1 Hadamard matrix (it spreads outlier
channels; H H' = D), one scale per block of 32 keys so that a block maximum stays an integer. The
mean shifts every score of a query alike, so any mean keeps the order. With a = H q and its int8
form aq, q.k - q.mean = a.b / D and

    a.b <= aq.bq + |aq| |b - bq| + |a - aq| |b|,

so an integer block maximum gives an upper bound on the block's true scores. A block is a lane of
a tile of 128 keys, as in `triton_prefill`. The index also remembers keys that won (`int8_warm`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.device_number import number
from reattention_kernels.topk_keys.triton import interpreted

TILE_KEYS = 128
SLOTS = ((2**18, 4096), (2**63, 8192))  # winners remembered for a KV head, by capacity


def hadamard(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Sylvester's matrix [size, size] of +-1; size a power of two."""
    matrix = torch.ones(1, 1, device=device, dtype=dtype)
    while matrix.shape[0] < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    return matrix


@triton.jit
def rotated_rows(x, h_ptr, D: tl.constexpr, UPCAST: tl.constexpr):
    """x [R, D] times the +-1 matrix, float32: every product is exact."""
    d = tl.arange(0, D)
    h = tl.load(h_ptr + d[:, None] * D + d[None, :])
    if UPCAST:
        return tl.dot(x.to(tl.float32), h.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(x, h)


@triton.jit
def to_int8(x):
    return tl.floor(x + 0.5).to(tl.int32).to(tl.int8)


@triton.jit(do_not_specialize=["first_tile", "n_keys", "capacity", "n_tiles"])
def quantize_keys_kernel(
    k_ptr,
    h_ptr,
    hmean_ptr,
    out_ptr,
    block_ptr,
    largest_ptr,
    mean_norm_ptr,
    first_tile,
    n_keys,
    n_kv_heads,
    capacity,
    n_tiles,
    stride_kb,
    stride_kh,
    stride_kn,
    D: tl.constexpr,
    TILE: tl.constexpr,
    LAST: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (tiles, batch * KV heads); block [.., tiles, 3, 4]: scale, most |b - bq|, most |b|.

    LAST: only the tile that the keys end in, wherever that is.
    """
    n_keys = number(n_keys)
    tile = first_tile + tl.program_id(0)
    if LAST:
        tile = (n_keys - 1) // TILE
    pair = tl.program_id(1).to(tl.int64)
    n = tile * TILE + tl.arange(0, TILE)
    d = tl.arange(0, D)
    base = k_ptr + (pair // n_kv_heads) * stride_kb + (pair % n_kv_heads) * stride_kh
    inside = (n < n_keys)[:, None] & (d >= 0)[None, :]
    k = tl.load(base + n[:, None].to(tl.int64) * stride_kn + d[None, :], mask=inside, other=0.0)
    b = rotated_rows(k, h_ptr, D, UPCAST) - tl.load(hmean_ptr + pair * D + d)[None, :]
    b = tl.where(inside, b, 0.0)
    # [keys, D] -> [keys / 8, lane, 2 D]: the maximum over the outer and the inner axis is a lane's
    blocks = tl.reshape(b, (TILE // 8, 4, 2 * D))
    scale = tl.maximum(tl.max(tl.max(tl.abs(blocks), 2), 0) / 127.0, 1e-20)  # [4]
    ib = to_int8(blocks / scale[None, :, None])
    rest = tl.reshape(blocks - ib.to(tl.float32) * scale[None, :, None], (TILE, D))
    out = out_ptr + (pair * capacity + n[:, None]) * D + d[None, :]
    tl.store(out, tl.reshape(ib, (TILE, D)), mask=inside)
    error = tl.max(tl.max(tl.reshape(tl.sum(rest * rest, 1), (TILE // 8, 4, 2)), 2), 0)
    size = tl.max(tl.max(tl.reshape(tl.sum(b * b, 1), (TILE // 8, 4, 2)), 2), 0)
    at = block_ptr + (pair * n_tiles + tile) * 12 + tl.arange(0, 4)
    tl.store(at, scale)
    tl.store(at + 4, tl.sqrt(error) * 1.00001)  # a float32 sum of squares may fall short
    tl.store(at + 8, tl.sqrt(size) * 1.00001)
    longest = tl.sqrt(tl.max(size, 0)) * (1.00001 / D**0.5) + tl.load(mean_norm_ptr + pair)
    tl.atomic_max(largest_ptr + pair, longest, sem="relaxed")


@triton.jit
def kth_largest(x, COLUMNS: tl.constexpr):
    """The largest of each row of x [R, COLUMNS], and x with -inf where it stood."""
    value, where = tl.max(x, 1, return_indices=True)
    taken = tl.arange(0, COLUMNS)[None, :] == where[:, None]
    return value, tl.where(taken, -float("inf"), x)


@triton.jit(do_not_specialize=["n_queries", "n_rows", "n_scores", "index_pairs"])
def quantize_queries_kernel(
    q_ptr,
    h_ptr,
    mean_ptr,
    largest_ptr,
    score_ptr,
    out_ptr,
    row_ptr,
    n_queries,
    n_rows,
    n_scores,
    n_kv_heads,
    index_pairs,
    stride_qb,
    stride_qh,
    stride_qt,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    K: tl.constexpr,
    SCORES: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Grid (row blocks, batch * KV heads): int8 rows and row [.., 4]: threshold, |aq| and |a - aq|,
    all over the scale, and the least 16-bit product that may belong to one of the K best.

    score_ptr [.., rows, n_scores]: scores of distinct keys; a block whose upper bound is below the
    threshold has no key that reaches the K-th largest of them.
    """
    pair = tl.program_id(1).to(tl.int64)
    of_index = pair % index_pairs
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, D)
    head = (pair % n_kv_heads) * GROUP + row // n_queries
    at = (pair // n_kv_heads) * stride_qb + head[:, None] * stride_qh
    at = at + (row % n_queries).to(tl.int64)[:, None] * stride_qt + d[None, :]
    inside = (row < n_rows)[:, None] & (d >= 0)[None, :]
    q = tl.load(q_ptr + at, mask=inside, other=0.0)
    mean = tl.load(mean_ptr + of_index * D + d)
    a = rotated_rows(q, h_ptr, D, UPCAST)
    scale = tl.maximum(tl.max(tl.abs(a), 1) / 127.0, 1e-20)
    ia = to_int8(a / scale[:, None])
    fa = ia.to(tl.float32)
    rest = a / scale[:, None] - fa
    out = pair * n_rows + row
    keep = row < n_rows
    tl.store(out_ptr + out[:, None] * D + d[None, :], ia, mask=inside)
    tl.store(row_ptr + out * 4 + 1, tl.sqrt(tl.sum(fa * fa, 1)) * 1.00001, mask=keep)
    tl.store(row_ptr + out * 4 + 2, tl.sqrt(tl.sum(rest * rest, 1)) * 1.0001, mask=keep)

    c = tl.arange(0, SCORES)
    held = keep[:, None] & (c < n_scores)[None, :]
    scores = tl.load(
        score_ptr + out[:, None] * n_scores + c[None, :], mask=held, other=-float("inf")
    )
    kth = scale
    for _ in tl.static_range(K):
        kth, scores = kth_largest(scores, SCORES)
    q = q.to(tl.float32)
    # the scores, q.mean and the bounds are float32 sums: at most D 2^-24 |q| |k| off, each
    rounding = tl.sqrt(tl.sum(q * q, 1)) * tl.load(largest_ptr + of_index) * (D * 2.0**-21)
    floor = kth - tl.abs(kth) * 2.0**-16 - rounding
    tl.store(row_ptr + out * 4 + 3, floor, mask=keep)
    least = (floor - tl.sum(q * mean[None, :], 1)) * D / scale
    tl.store(row_ptr + out * 4, least - tl.abs(least) * 2.0**-18, mask=keep)


@dataclass
class Int8Index:
    """int8 keys [B, Hkv, capacity, D] of one layer's middle, appended to as the middle grows."""

    keys: Tensor
    blocks: Tensor  # float32 [B * Hkv, tiles, 3, 4]
    largest: Tensor  # float32 [B * Hkv]: the largest |b| / sqrt(D) + |mean|, a bound on |k|
    matrix: Tensor
    mean: Tensor  # float32 [B * Hkv, D]; zeros until the first update
    rotated_mean: Tensor
    mean_norm: Tensor  # float32 [B * Hkv]
    winners: Tensor  # int32 [B * Hkv, slots]: positions of keys that won, -1 for none
    size: int = 0  # keys held
    warm: bool = False  # whether there are winners

    @classmethod
    def empty(cls, b: int, kv_heads: int, capacity: int, like: Tensor) -> Int8Index:
        """like: a tensor with the keys' head_dim (a power of two), dtype and device."""
        d, device = like.shape[-1], like.device
        slots = next(slots for most, slots in SLOTS if capacity < most)
        tiles = -(-capacity // (2 * TILE_KEYS)) * 2  # the scan reads two at a time
        return cls(
            keys=torch.empty(b, kv_heads, tiles * TILE_KEYS, d, dtype=torch.int8, device=device),
            blocks=torch.zeros(b * kv_heads, tiles, 3, 4, device=device),
            largest=torch.zeros(b * kv_heads, device=device),
            matrix=hadamard(d, device, like.dtype),
            mean=torch.zeros(b * kv_heads, d, device=device),
            rotated_mean=torch.zeros(b * kv_heads, d, device=device),
            mean_norm=torch.zeros(b * kv_heads, device=device),
            winners=torch.full((b * kv_heads, slots), -1, dtype=torch.int32, device=device),
        )

    def update(self, key: Tensor, device_length: Tensor | None = None) -> None:
        """Take in the keys [B, Hkv, N, D] beyond those held; an unfinished tile is made anew.

        device_length: int32 [1], so many of the keys exist, and one more than the index holds; then
        `size` stays as it is, for the caller to count (a CUDA graph repeats this call).
        """
        n, d = key.shape[2:]
        if device_length is not None:
            self._quantize(key, device_length, 0, 1, last=True)
            return
        if n <= self.size:
            return
        if self.size == 0:
            self.mean.copy_(key.mean(2, dtype=torch.float32).reshape(-1, d))
            by_head = self.mean[:, None, :] * self.matrix.float()  # the matrix is symmetric
            self.rotated_mean.copy_(by_head.sum(2))
            self.mean_norm.copy_(self.mean.norm(dim=1))
        first, end = self.size // TILE_KEYS, -(-n // TILE_KEYS)
        self._quantize(key, n, first, end - first, last=False)
        self.size = n

    def _quantize(self, key: Tensor, n: int | Tensor, first: int, tiles: int, last: bool) -> None:
        b, kv_heads, _, d = key.shape
        quantize_keys_kernel[(tiles, b * kv_heads)](
            key, self.matrix, self.rotated_mean, self.keys, self.blocks, self.largest,
            self.mean_norm, first, n, kv_heads, self.keys.shape[2], self.blocks.shape[1],
            *key.stride()[:3],
            D=d, TILE=TILE_KEYS, LAST=last, UPCAST=interpreted(), num_warps=8,
        )  # fmt: skip

    def entries(self, some: slice) -> Int8Index:
        """The index of some entries of a batch; itself where they share it."""
        kv_heads = self.keys.shape[1]
        if self.keys.shape[0] == 1:
            return self
        rows = slice(some.start * kv_heads, some.stop * kv_heads)
        of_rows = ("blocks", "largest", "mean", "rotated_mean", "mean_norm", "winners")
        parts = {name: getattr(self, name)[rows] for name in of_rows}
        return replace(self, keys=self.keys[some], **parts)

    def forget(self, size: int) -> None:
        """Hold only the first `size` keys."""
        self.size = min(self.size, size)

    @property
    def bytes(self) -> int:
        """Bytes the index holds."""
        return self.keys.numel() + self.blocks.numel() * 4

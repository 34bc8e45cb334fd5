"""Triton form of `topk_keys`: block-max pass, exact rescoring, for CUDA tensors.

Prefill and decode differ in the launch only: with few rows the keys are split until the memory is
busy, with many rows until every multiprocessor has work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from reattention_kernels.dependent import dependent
from reattention_kernels.device_number import number_step
from reattention_kernels.topk_keys.insertion import insertion_asm
from reattention_kernels.topk_keys.triton_prefill import best_blocks_kernel
from reattention_kernels.topk_keys.triton_rescore import rescore_kernel

MAX_K = 16
MAX_HEAD_DIM = 256
ROOMS = (64, 256, 1024, 4096)  # for the candidates of a row


@dataclass(frozen=True)
class Tile:
    """One launch shape of pass 1: rows x keys per tile, and how many programs share an SM."""

    rows: int
    keys: int
    warps: int
    stages: int
    lanes: int = 4
    parts: int = 1  # blocks a lane's share of a tile is cut into
    per_sm: int = 1
    gluon: bool = False
    rescore_warps: int = 4
    rescore_size: int = 16384  # keys x channels scored together

    @property
    def block(self) -> int:
        """Keys per block."""
        return self.keys // (self.lanes * self.parts)


def interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def sm_count(index: int) -> int:
    return torch.cuda.get_device_properties(index).multi_processor_count


@cache
def capability(index: int) -> tuple[int, int]:
    return torch.cuda.get_device_capability(index)


def choose_tile(n_rows: int, key: Tensor, mode: str) -> Tile:
    """Measured on an H100; see docs/kernels.md."""
    lanes = 1 if mode == "block_max" else 4
    head_dim = key.shape[3]
    if interpreted() or key.dtype == torch.float32:  # with 4 warps 12 KB a thread would spill
        return Tile(32, 128, 8, 2, lanes) if mode == "block_max" else Tile(64, 64, 8, 2, lanes)
    if head_dim > 128:
        return Tile(64 if n_rows <= 64 else 128, 128, 4 if n_rows <= 64 else 8, 2, lanes)
    if n_rows <= 64:
        return Tile(64, 128, 4, 3, lanes, per_sm=2, rescore_warps=8)  # 4 would spill 1 KB
    if mode == "block_max":
        return Tile(128, 128, 8, 3, lanes)
    if hopper_ready(key):
        stages = 3 if head_dim == 128 else 4
        return Tile(
            128,
            256,
            8,
            stages,
            lanes,
            parts=4,
            gluon=True,
            rescore_warps=1,
            rescore_size=2048,
        )
    return Tile(128, 64, 4, 3, lanes, per_sm=2)


def choose_splits(n_programs: int, n_tiles: int, slots: int) -> int:
    """Parts the keys are cut into: the fewest that leave the least of the last wave idle."""
    most = max(1, min(n_tiles // 16, -(-2 * slots // n_programs)))

    def cost(splits: int) -> float:
        waves = -(-n_programs * splits // slots)
        return waves / splits * (1 + 0.004 * splits)

    return min(range(1, most + 1), key=cost)


def topk_keys_triton(
    query: Tensor,
    key: Tensor,
    k: int,
    mode: str = "exact",
    device_length: Tensor | None = None,
    tile: Tile | None = None,
    less: int = 0,
) -> Tensor:
    """Same contract as `reattention_kernels.topk_keys`; k <= 16, head_dim <= 256, no float64."""
    b, h, t, _ = query.shape
    out = torch.empty(b, h, t, k, dtype=torch.int32, device=query.device)
    if key.shape[2] == 0 or out.numel() == 0:
        return out.fill_(-1)
    query = query if query.stride(3) == 1 else query.contiguous()
    key = key if key.stride(3) == 1 else key.contiguous()
    tile = tile or choose_tile(h // key.shape[1] * t, key, mode)
    n = key.shape[2] if device_length is None else device_length
    if tile.gluon and device_length is not None and less:
        n, less = device_length - less, 0
    blocks = best_blocks(query, key, k, tile, n, less)
    rescore(query, key, blocks, out, tile, n, mode == "block_max", less=less)
    return out


def splits_of(n_rows: int, pairs: int, n: int, tile: Tile, device: torch.device) -> tuple[int, int]:
    """(tiles per split, splits)."""
    n_tiles = -(-n // tile.keys)
    slots = 2 if interpreted() else tile.per_sm * sm_count(device.index or 0)
    splits = choose_splits(-(-n_rows // tile.rows) * pairs, n_tiles, slots)
    per_split = -(-n_tiles // splits)
    return per_split, -(-n_tiles // per_split)


def best_blocks(
    query: Tensor, key: Tensor, k: int, tile: Tile, n: int | Tensor, less: int = 0
) -> Tensor:
    """Pass 1: packed int64 [B * Hkv, G * T, splits * lanes * k] candidate blocks of every row.

    n: how many of the keys there are, or where on the device that stands (int32 [1] or [B]), if
    need be with `less` too many.
    """
    if not tile.gluon:
        return best_blocks_of(query, key, k, tile, n, less=less)
    from reattention_kernels.topk_keys.gluon_prefill import best_blocks_gluon

    pairs, n_rows = key.shape[0] * key.shape[1], query.shape[1] // key.shape[1] * query.shape[2]
    per_split, splits = splits_of(n_rows, pairs, key.shape[2], tile, query.device)
    return best_blocks_gluon(query, key, k, k, tile, n, per_split, splits)


def best_blocks_of(
    query: Tensor,
    key: Tensor,
    k: int,
    tile: Tile,
    n: int | Tensor,
    some: tuple[Tensor, Tensor] | None = None,
    less: int = 0,
) -> Tensor:
    """Pass 1 in plain Triton; some = (rows int32 [B * Hkv, G * T], how many [B * Hkv])."""
    b, h, t, d = query.shape
    kv_heads = key.shape[1]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    # the listed rows are few: split the keys as for one tile of them
    rows = tile.rows if some else n_rows
    per_split, splits = splits_of(rows, pairs, key.shape[2], tile, query.device)
    blocks = torch.empty(
        pairs, n_rows, splits * tile.lanes * k, dtype=torch.int64, device=query.device
    )
    asm, constraints = (None, None) if interpreted() else insertion_asm(k, 1)
    padded = max(16, triton.next_power_of_2(d))
    tma = tma_ready(key) and d == padded
    descriptor = None
    if tma:
        # a step of zero is none to the descriptor: entries that share their keys are one
        held = key if key.stride(0) else key[:1]
        steps = [key.stride(0) or key.stride(1) * kv_heads, *key.stride()[1:]]
        descriptor = TensorDescriptor(held, held.shape, steps, [1, 1, tile.keys, padded])
    tiles = 1 if some else -(-n_rows // tile.rows)  # where none is listed, programs just cost
    best_blocks_kernel[(tiles, pairs, splits)](
        query, descriptor, key, blocks, *(some or (None, None)), n_rows, t, n, number_step(n),
        less, kv_heads, per_split, *query.stride()[:3], *key_steps(key), SOME=some is not None,
        GROUP=h // kv_heads, D=d, DP=padded, BM=tile.rows, BN=tile.keys, LANES=tile.lanes, K=k,
        STAGES=tile.stages, TMA=tma, PRECISION="ieee", UPCAST=interpreted(),
        ASM=asm, CONSTRAINTS=constraints, num_warps=tile.warps, **follows(query, some),
    )  # fmt: skip
    return blocks


def rescore(
    query: Tensor,
    key: Tensor,
    blocks: Tensor,
    out: Tensor,
    tile: Tile,
    n: int | Tensor,
    one_per_block: bool = False,
    some: tuple[Tensor, Tensor] | None = None,
    less: int = 0,
) -> None:
    """Pass 2: out int32 [B, H, T, k], from the candidate blocks."""
    if tile.gluon and some is None:
        from reattention_kernels.topk_keys.gluon_rescore import rescore_gluon

        room = candidate_room(blocks.shape[2])
        return rescore_gluon(query, key, blocks, out, n, less, room, key_steps(key))
    _, h, t, d = query.shape
    kv_heads, k, n_cand = key.shape[1], out.shape[3], blocks.shape[2]
    padded = max(16, triton.next_power_of_2(d))
    rescore_kernel[(h // kv_heads * t, blocks.shape[0])](
        query, key, blocks, out, *(some or (None, None)), t, n, number_step(n), less, kv_heads,
        n_cand,
        *query.stride()[:3], *key_steps(key), SOME=some is not None,
        GROUP=h // kv_heads, D=d, DP=padded, BLOCK=tile.block, LANES=tile.lanes, K=k,
        KP=triton.next_power_of_2(k), CP=candidate_room(n_cand),
        CHUNK=max(1, min(triton.next_power_of_2(k), tile.rescore_size // (tile.block * padded))),
        ONE_PER_BLOCK=one_per_block, num_warps=tile.rescore_warps, **follows(query, some),
    )  # fmt: skip


def follows(query: Tensor, some: tuple[Tensor, Tensor] | None) -> dict[str, Any]:
    """A decode step's kernels start as the one before ends."""
    return dependent(query) if query.shape[2] == 1 and some is None else {"DEPENDENT": False}


def key_steps(key: Tensor) -> tuple[int, ...]:
    """Strides of batch, head and key. A lone entry has no next one: a step past 2^31 elements would
    have the kernel compiled again."""
    batch, *steps = key.stride()[:3]
    return (batch if key.shape[0] > 1 else 0, *steps)


def candidate_room(n_cand: int) -> int:
    """Room for a row's candidates: of few sizes, since each is compiled by itself."""
    fitting = [room for room in ROOMS if room >= n_cand]
    return fitting[0] if fitting else triton.next_power_of_2(n_cand)


def tma_ready(key: Tensor) -> bool:
    """The bulk copy engine wants 16-byte steps, none of them zero but the batch's."""
    if interpreted() or key.is_cpu or capability(key.device.index or 0)[0] < 9:
        return False
    size = key.element_size()
    batch, *steps = key.stride()[:3]
    aligned = all(step > 0 and step * size % 16 == 0 for step in (batch or steps[0], *steps))
    return aligned and key.data_ptr() % 16 == 0 and size <= 2


def hopper_ready(key: Tensor) -> bool:
    """Gluon's wgmma form: keys whose batch and head steps are whole rows of one 2-D array."""
    step = key.stride(2)
    return (
        tma_ready(key)
        and capability(key.device.index or 0)[0] == 9
        and key.shape[3] in (64, 128)
        and step > 0
        and key.stride(0) % step == 0
        and key.stride(1) % step == 0
    )

"""Exact top-k through the 8-bit index: a quarter of the work, the same positions.

1. The best of the keys that won before, scored in 16 bit, give each row a threshold (`int8_warm`).
2. The 8-bit scan emits the blocks whose upper bound reaches it (`gluon_emit`): no other block can
   hold one of the row's k best keys.
3. Emitted blocks are scored in 16 bit, block by block, and the best ones exactly (`int8_pairs`).
4. Rows with more blocks than there is room for take the 16-bit pass, in place.

The result is that of `topk_keys` in mode "exact" in every case, and nothing waits for the host.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from reattention_kernels.topk_keys.int8_index import Int8Index, quantize_queries_kernel
from reattention_kernels.topk_keys.int8_naive import emit_blocks_naive
from reattention_kernels.topk_keys.int8_pairs import (
    WINDOW,
    best_keys_kernel,
    gather_pairs_kernel,
    place_blocks_kernel,
    score_pairs_kernel,
    sort_pairs_kernel,
)
from reattention_kernels.topk_keys.int8_warm import best_remembered, remember
from reattention_kernels.topk_keys.triton import (
    Tile,
    best_blocks_of,
    hopper_ready,
    interpreted,
    rescore,
    sm_count,
    topk_keys_triton,
)

MAX_K = 8  # more would make the thresholds' grouping of keys too coarse
SCAN = Tile(128, 256, 8, 5, parts=2, gluon=True)
SCAN_FEW = Tile(64, 256, 4, 3, parts=2, per_sm=2, gluon=True)
FALLBACK = Tile(64, 128, 4, 3, per_sm=2)
LEAST_TILES = 8  # of a split: the pipeline wants filling
MOST_SPLITS = 12  # where the rows alone keep the GPU busy
# Room for a row's blocks, real rows wanting 10 to 250 (docs/kernels.md): segments up to so many,
# each of so much. Few sizes, since each is compiled by itself.
ROOMS = ((8, 128), (64, 32), (1024, 8))
PAIRS_A_ROW, FEWEST_PAIRS = 128, 2**22  # on average; half of it where that is more than this
CHUNK_CHANNELS, BEST_WARPS = 128, 2  # keys rescored together: blocks x head_dim


def indexable(query: Tensor, key: Tensor, k: int) -> bool:
    """Whether `topk_keys_int8` serves these: 16 bit on Hopper, head_dim 64 or 128, few keys."""
    return k <= MAX_K and query.element_size() == 2 and hopper_ready(key)


def topk_keys_int8(
    query: Tensor, key: Tensor, index: Int8Index, k: int, device_length: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`topk_keys` in mode "exact", through the index of the keys; k <= MAX_K.

    key [B, Hkv, N, D] and an index of as many entries, or of one that all entries share (chunks of
    one row: key of batch stride 0). device_length int32 [1] or [B]: how many keys each entry sees.
    Returns the positions int32 [B, H, T, k], and int32 [B * Hkv] how many rows took the 16-bit
    pass; all do where the index remembers no winners yet.
    """
    b, h, t, _ = query.shape
    kv_heads = key.shape[1]
    if (device_length is None and index.size < key.shape[2]) or k > MAX_K:
        raise ValueError(
            f"the index holds {index.size} keys and serves k up to {MAX_K}; "
            f"it cannot serve {key.shape[2]} keys and k={k}. Call update() first."
        )
    query = query if query.stride(3) == 1 else query.contiguous()
    if index.warm:
        n = length_of(device_length, b, key)
        out, n_open = through_index(query, key, index, k, n)
    else:
        out = topk_keys_triton(query, key, k, device_length=device_length)
        rows = h // kv_heads * t
        n_open = torch.full((b * kv_heads,), rows, dtype=torch.int32, device=query.device)
    remember(index, out, kv_heads)
    return out, n_open


def length_of(device_length: Tensor | None, b: int, key: Tensor) -> Tensor:
    """int32 [B], of stride 0 where all entries see as many keys."""
    if device_length is None:
        device_length = torch.full((1,), key.shape[2], dtype=torch.int32, device=key.device)
    return device_length.expand(b)


def through_index(
    query: Tensor, key: Tensor, index: Int8Index, k: int, n: Tensor
) -> tuple[Tensor, Tensor]:
    """`topk_keys_int8` with an index that remembers winners."""
    b, h, t, d = query.shape
    kv_heads, device = key.shape[1], query.device
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    index_pairs = index.blocks.shape[0]
    scores, n_scores = best_remembered(query, key, index, k, n)
    rotated = torch.empty(b, kv_heads, n_rows, d, dtype=torch.int8, device=device)
    terms = torch.empty(pairs, n_rows, 4, dtype=torch.float32, device=device)
    quantize_queries_kernel[(triton.cdiv(n_rows, 64), pairs)](
        query, index.matrix, index.mean, index.largest, scores, rotated, terms,
        t, n_rows, n_scores, kv_heads, index_pairs, *query.stride()[:3],
        GROUP=h // kv_heads, D=d, ROWS=64, K=k, SCORES=triton.next_power_of_2(n_scores),
        UPCAST=interpreted(),
    )  # fmt: skip
    ids, counts = emit_blocks(rotated, terms, index, key.shape[2], n)
    out = torch.empty(b, h, t, k, dtype=torch.int32, device=device)
    some = best_of_emitted(query, key, ids, counts, index_pairs, n, out)
    blocks = best_blocks_of(query, key, k, FALLBACK, n, some)
    rescore(query, key, blocks, out, FALLBACK, n, some=some)
    return out, some[1]


def emit_blocks(
    rotated: Tensor, terms: Tensor, index: Int8Index, capacity: int, n: Tensor
) -> tuple[Tensor, Tensor]:
    """Per row and segment the blocks whose upper bound reaches the row's threshold, and how many.

    capacity: at most so many keys; n: how many there are, int32 [B].
    """
    n_rows, pairs = rotated.shape[2], terms.shape[0]
    tile = SCAN_FEW if n_rows <= 64 else SCAN
    per_split, splits = scan_splits(n_rows, pairs, capacity, tile, rotated.device)
    _, room = segments_and_room(4 * splits)
    if interpreted():
        return emit_blocks_naive(rotated, terms, index.keys, index.blocks, n, room)
    from reattention_kernels.topk_keys.gluon_emit import emit_blocks_gluon

    return emit_blocks_gluon(
        rotated, terms, index.keys, index.blocks, n, tile, per_split, splits, room
    )


def segments_and_room(n_segments: int) -> tuple[int, int]:
    """(so many of them or more, ids in each)."""
    return next(sizes for sizes in ROOMS if n_segments <= sizes[0])


def scan_splits(
    n_rows: int, pairs: int, n: int, tile: Tile, device: torch.device
) -> tuple[int, int]:
    """(tiles per split, splits): as `splits_of`, with more parts for the last wave to be full."""
    n_tiles = -(-n // tile.keys)
    if interpreted():
        return n_tiles, 1
    slots = tile.per_sm * sm_count(device.index or 0)
    programs = -(-n_rows // tile.rows) * pairs
    most = max(MOST_SPLITS, min(slots // programs, ROOMS[-1][0] // 4))
    most = max(1, min(n_tiles // LEAST_TILES, most))

    def cost(splits: int) -> float:
        return -(-programs * splits // slots) / splits * (1 + 0.004 * splits)

    per_split = -(-n_tiles // min(range(1, most + 1), key=cost))
    return per_split, -(-n_tiles // per_split)


def best_of_emitted(
    query: Tensor,
    key: Tensor,
    ids: Tensor,
    counts: Tensor,
    index_pairs: int,
    n: Tensor,
    out: Tensor,
) -> tuple[Tensor, Tensor]:
    """out [B, H, T, k] from the emitted blocks. Returns the rows whose blocks do not fit and whose
    winners are left open: int32 [B * Hkv, rows], and how many of them are listed [B * Hkv]."""
    _, h, t, d = query.shape
    kv_heads, k = key.shape[1], out.shape[3]
    pairs, n_rows, n_segments, room = ids.shape
    rows, device = pairs * n_rows, query.device
    n_blocks = -(-key.shape[2] // SCAN.keys) * (SCAN.keys // SCAN.block)
    all_blocks = index_pairs * n_blocks
    capacity = min(PAIRS_A_ROW * rows, max(FEWEST_PAIRS, PAIRS_A_ROW // 2 * rows))
    capacity = max(min(capacity, rows * n_blocks), 1)
    in_windows = capacity + (WINDOW - 1) * min(all_blocks, capacity)
    in_windows = -(-in_windows // WINDOW) * WINDOW

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.empty(*shape, dtype=dtype, device=device)

    histogram = torch.zeros(all_blocks + 2 + pairs, dtype=torch.int32, device=device)
    total, sorted_total, n_open = histogram[all_blocks:].split((1, 1, pairs))
    row_start, row_pairs, listed = empty(3, rows)
    pair_block, pair_rank, pair_row = empty(3, capacity)
    segments, _ = segments_and_room(n_segments)
    gather_pairs_kernel[(n_rows, pairs)](
        ids, counts, histogram, total, row_start, row_pairs, listed, n_open,
        pair_block, pair_rank, pair_row, n_rows, n_segments, index_pairs, n_blocks, capacity,
        ROOM=room, SP=segments, STEP=max(1, min(room, 512 // segments)),
        num_warps=1 if segments <= 64 else 4,
    )  # fmt: skip
    offset = empty(all_blocks)
    sorted_row, sorted_pair = empty(2, in_windows)
    window_block = empty(in_windows // WINDOW)
    place_blocks_kernel[(triton.cdiv(all_blocks, 256),)](
        histogram, sorted_total, offset, sorted_row, all_blocks, WINDOW=WINDOW, SIZE=256,
    )  # fmt: skip
    programs = 4 if interpreted() else 8 * sm_count(device.index or 0)
    sort_pairs_kernel[(min(programs, triton.cdiv(capacity, 256)),)](
        total, offset, pair_block, pair_rank, pair_row, sorted_row, sorted_pair, window_block,
        capacity, WINDOW=WINDOW, SIZE=256,
    )  # fmt: skip
    value = empty(capacity, dtype=torch.int64)
    score_pairs_kernel[(min(2 * programs, in_windows // WINDOW),)](
        query, key, sorted_total, sorted_row, sorted_pair, window_block, value, n, n.stride(0),
        key.shape[2], t, n_rows, kv_heads, n_blocks, *query.stride()[:3], *key.stride()[:3],
        GROUP=h // kv_heads, D=d, BLOCK=SCAN.block, WINDOW=WINDOW, UPCAST=interpreted(),
        num_warps=2,
    )  # fmt: skip
    best_keys_kernel[(n_rows, pairs)](
        query, key, value, row_start, row_pairs, out, n, n.stride(0), t, kv_heads,
        *query.stride()[:3], *key.stride()[:3],
        GROUP=h // kv_heads, D=d, BLOCK=SCAN.block, K=k, KP=triton.next_power_of_2(k),
        CP=64, CHUNK=max(1, CHUNK_CHANNELS // d), num_warps=BEST_WARPS,
    )  # fmt: skip
    return listed.view(pairs, n_rows), n_open

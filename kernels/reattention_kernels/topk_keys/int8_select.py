"""Exact top-k through the 8-bit index: a quarter of the work, the same positions.

1. The best of the keys that won before, scored in 16 bit, give each row a threshold (`int8_warm`).
2. The 8-bit scan emits the blocks whose upper bound reaches it (`gluon_emit`): no other block can
   hold one of the row's k best keys.
3. Emitted blocks are scored in 16 bit, block by block, and the few keys that reach the threshold
   exactly (`int8_pairs`).
4. Rows with more blocks or keys than there is room for take the 16-bit pass, in place.

The result is that of `topk_keys` in mode "exact" in every case, and nothing waits for the host.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from reattention_kernels.topk_keys.int8_index import TILE_KEYS, Int8Index, quantize_queries_kernel
from reattention_kernels.topk_keys.int8_naive import emit_blocks_naive
from reattention_kernels.topk_keys.int8_pairs import (
    WINDOW,
    best_found_kernel,
    list_rows_kernel,
    place_blocks_kernel,
    score_blocks_kernel,
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
LEAST_ROWS = 128  # of a KV head
LEAST_TILES = 8  # of a split: the pipeline wants filling
MOST_SPLITS = 12  # where the rows alone keep the GPU busy
# Room for a row's blocks, real rows wanting 10 to 4,000 (docs/kernels.md): segments up to so many,
# each of so much. Few sizes, since each is compiled by itself.
ROOMS = ((8, 512), (64, 128), (1024, 16))
PAIRS_A_ROW = 512  # on average
FOUND = 256  # keys of a row that reach its threshold; few without ties
FOUND_CHANNELS = 2048  # of these, scored together: keys x head_dim
ROWS_AT_ONCE = 2**15  # bounds the memory: 11 KiB of ids a row
SPLIT_BLOCKS = 2**16  # ids within a split are uint16


def indexable(query: Tensor, key: Tensor, k: int) -> bool:
    """Whether `topk_keys_int8` serves these, and pays: 16 bit on Hopper, head_dim 64 or 128, k up
    to MAX_K, and rows enough to share the keys' blocks (a decoding step is faster in 16 bit)."""
    rows = query.shape[1] // key.shape[1] * query.shape[2]
    return k <= MAX_K and rows >= LEAST_ROWS and query.element_size() == 2 and hopper_ready(key)


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
        each = max(1, ROWS_AT_ONCE // (h * t))
        parts = [
            through_index(query[some], key[some], index.entries(some), k, n[some])
            for some in (slice(i, i + each) for i in range(0, b, each))
        ]
        out, n_open = parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))
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
    n_blocks = -(-key.shape[2] // SCAN.keys) * (SCAN.keys // SCAN.block)
    counted = torch.zeros(index_pairs * n_blocks + 1 + pairs, dtype=torch.int32, device=device)
    wanted, total, n_open = counted.split((index_pairs * n_blocks, 1, pairs))
    wanted = wanted.view(index_pairs, n_blocks)
    ids, counts, per_split = emit_blocks(rotated, terms, index, key.shape[2], n, wanted)
    out = torch.empty(b, h, t, k, dtype=torch.int32, device=device)
    listed = best_of_emitted(
        query, key, terms, ids, counts, per_split, wanted, total, n, out, n_open
    )
    some = (listed, n_open)
    blocks = best_blocks_of(query, key, k, FALLBACK, n, some)
    rescore(query, key, blocks, out, FALLBACK, n, some=some)
    return out, n_open


def emit_blocks(
    rotated: Tensor, terms: Tensor, index: Int8Index, capacity: int, n: Tensor, wanted: Tensor
) -> tuple[Tensor, Tensor, int]:
    """Per row and segment the blocks whose upper bound reaches the row's threshold, and how many;
    ids count from a split's first block, of which a split has so many (the last result).

    capacity: at most so many keys; n: how many there are, int32 [B]; wanted [.., blocks] is added
    how often each block was emitted.
    """
    n_rows, pairs = rotated.shape[2], terms.shape[0]
    tile = SCAN_FEW if n_rows <= 64 else SCAN
    per_split, splits = scan_splits(n_rows, pairs, capacity, tile, rotated.device)
    _, room = segments_and_room(4 * splits)
    blocks_per_split = per_split * (tile.keys // tile.block)
    if interpreted():
        tiles = per_split * (tile.keys // TILE_KEYS)
        ids, counts = emit_blocks_naive(
            rotated, terms, index.keys, index.blocks, n, tiles, room, wanted
        )
        return ids, counts, blocks_per_split
    from reattention_kernels.topk_keys.gluon_emit import emit_blocks_gluon

    ids, counts = emit_blocks_gluon(
        rotated, terms, index.keys, index.blocks, n, tile, per_split, splits, room, wanted
    )
    return ids, counts, blocks_per_split


def segments_and_room(n_segments: int) -> tuple[int, int]:
    """(so many of them or more, ids in each)."""
    return next(sizes for sizes in ROOMS if n_segments <= sizes[0])


def scan_splits(
    n_rows: int, pairs: int, n: int, tile: Tile, device: torch.device
) -> tuple[int, int]:
    """(tiles per split, splits): as `splits_of`, with more parts for the last wave to be full."""
    n_tiles = -(-n // tile.keys)
    slots = 4 if interpreted() else tile.per_sm * sm_count(device.index or 0)
    programs = -(-n_rows // tile.rows) * pairs
    most = max(MOST_SPLITS, min(slots // programs, ROOMS[-1][0] // 4))
    most = max(1, min(n_tiles // (1 if interpreted() else LEAST_TILES), most))

    def cost(splits: int) -> float:
        return -(-programs * splits // slots) / splits * (1 + 0.004 * splits)

    least = -(-n_tiles * (tile.keys // tile.block) // SPLIT_BLOCKS)
    per_split = -(-n_tiles // min(range(least, max(least, most) + 1), key=cost))
    return per_split, -(-n_tiles // per_split)


def best_of_emitted(
    query: Tensor,
    key: Tensor,
    terms: Tensor,
    ids: Tensor,
    counts: Tensor,
    per_split: int,
    wanted: Tensor,
    total: Tensor,
    n: Tensor,
    out: Tensor,
    n_open: Tensor,
) -> Tensor:
    """out [B, H, T, k] from the emitted blocks. Returns the rows whose blocks or keys do not fit,
    int32 [B * Hkv, rows], their winners left open; how many are listed is added to n_open."""
    _, h, t, d = query.shape
    kv_heads, k = key.shape[1], out.shape[3]
    pairs, n_rows, n_segments, room = ids.shape
    rows, device = pairs * n_rows, query.device
    index_pairs, n_blocks = wanted.shape
    capacity = max(min(PAIRS_A_ROW, n_blocks) * rows, 1)
    places = capacity + (WINDOW - 1) * min(wanted.numel(), capacity)
    places = -(-places // WINDOW) * WINDOW
    row_of = torch.empty(places, dtype=torch.int32, device=device)
    block_of = torch.empty(places // WINDOW, dtype=torch.int32, device=device)
    found = torch.empty(rows, FOUND, dtype=torch.int32, device=device)
    n_found, listed = torch.empty(2, rows, dtype=torch.int32, device=device)
    place_blocks_kernel[(triton.cdiv(wanted.numel(), 256),)](
        wanted, total, row_of, wanted.numel(), places, WINDOW=WINDOW, SIZE=256,
    )  # fmt: skip
    segments, _ = segments_and_room(n_segments)
    list_rows_kernel[(n_rows, pairs)](
        ids, counts, wanted, row_of, block_of, n_found,
        n_rows, n_segments, index_pairs, n_blocks, per_split, places,
        ROOM=room, SP=segments, STEP=max(1, min(room, 512 // segments)), WINDOW=WINDOW,
        num_warps=1 if segments <= 64 else 4,
    )  # fmt: skip
    programs = 4 if interpreted() else 8 * sm_count(device.index or 0)
    score_blocks_kernel[(min(programs, places // WINDOW),)](
        query, key, terms, total, row_of, block_of, found, n_found, n, n.stride(0),
        key.shape[2], t, n_rows, kv_heads, n_blocks, places,
        *query.stride()[:3], *key.stride()[:3],
        GROUP=h // kv_heads, D=d, BLOCK=SCAN.block, WINDOW=WINDOW, FOUND=FOUND,
        UPCAST=interpreted(), num_warps=2,
    )  # fmt: skip
    best_found_kernel[(n_rows, pairs)](
        query, key, found, n_found, out, listed, n_open, t, kv_heads,
        *query.stride()[:3], *key.stride()[:3],
        GROUP=h // kv_heads, D=d, K=k, KP=triton.next_power_of_2(k), FOUND=FOUND,
        CHUNK=max(1, FOUND_CHANNELS // d), num_warps=1,
    )  # fmt: skip
    return listed.view(pairs, n_rows)

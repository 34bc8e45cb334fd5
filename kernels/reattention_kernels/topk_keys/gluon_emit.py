"""The 8-bit scan on Hopper: every block whose upper bound reaches its row's threshold is emitted.

Each row comes with a threshold, a lower bound on its k-th best score, so the scan keeps no lists:
it writes the id of a block that may matter into the segment that its (row, split, lane) owns, and
counts, for the segment and for the block. A count above the segment's room tells that the row has
to be done otherwise. As in `gluon_prefill` two accumulators take turns, so that the reduction hides
behind the product.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from reattention_kernels.topk_keys.gluon_lists import HALF, block_values
from reattention_kernels.topk_keys.gluon_prefill import async_load, barrier, start_product
from reattention_kernels.topk_keys.insertion import emission_asm

if TYPE_CHECKING:
    from reattention_kernels.topk_keys.triton import Tile

NO_KEY = gl.constexpr(-(2**30))  # the score of a key past the end


@gluon.jit
def prefetch(pointer):
    """Towards L2, long before the load: a miss would take longer than a product."""
    gl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [pointer],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def bounds_of(scores, row_terms, block_terms, BM: gl.constexpr):
    """Upper bounds [BM, 4] on the true scores of a half tile's blocks, in the row's units."""
    most = block_values(scores, BM, 1)[0]
    query_norm, query_error = row_terms
    scale, key_error, key_norm = block_terms
    return most.to(gl.float32) * scale + (query_norm * key_error + query_error * key_norm)


@gluon.jit
def terms_of_blocks(block_ptr, half, lane):
    """(scale, error, norm) of the four blocks of a half tile."""
    at = block_ptr + half * 12 + lane
    return gl.load(at), gl.load(at + 4), gl.load(at + 8)


@gluon.jit
def emit(
    count, bounds, threshold, segment, wanted, tile, lane,
    ASM: gl.constexpr, CONSTRAINTS: gl.constexpr,
):  # fmt: skip
    """The blocks of a tile; id = (tile * halves + half) * 4 + lane, tiles counted in the split."""
    ident = gl.zeros_like(count) + (lane + tile * (4 * len(bounds)))
    return gl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        (count,) + bounds + (threshold, segment, wanted, ident),
        dtype=gl.int32,
        is_pure=False,
        pack=1,
    )


@gluon.jit(
    do_not_specialize=["n_rows", "n_keys_step", "n_batch", "n_kv_heads", "tiles_per_split",
                       "index_pairs", "tiles_per_pair", "n_blocks"]
)  # fmt: skip
def emit_blocks_hopper(
    q_desc,
    k_desc,
    row_ptr,
    block_ptr,
    id_ptr,
    count_ptr,
    wanted_ptr,
    n_keys_ptr,
    n_keys_step,
    n_rows,
    n_batch,
    n_kv_heads,
    tiles_per_split,
    index_pairs,
    tiles_per_pair,
    n_blocks,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    ROOM: gl.constexpr,
    ASM: gl.constexpr,
    CONSTRAINTS: gl.constexpr,
    num_warps: gl.constexpr,
):
    """Grid (row tiles, KV heads * batch, splits) -> ids [batch * KV heads, rows, splits, 4, ROOM]
    and how many there would be, count [batch * KV heads, rows, splits, 4]; ids are uint16, counted
    in the split. wanted [index_pairs, n_blocks] += the ids written of each block.

    q_desc int8 [B * Hkv * rows, D]; k_desc int8 [index_pairs * tiles_per_pair * 128, D], the index
    of a pair being pair % index_pairs (entries of the batch may share theirs); row_ptr [B * Hkv,
    rows, 4]: threshold, |aq|, |a - aq|; block_ptr [index_pairs, tiles_per_pair, 3, 4].
    """
    D: gl.constexpr = k_desc.block_type.shape[1]
    HALVES: gl.constexpr = BN // HALF
    row_tile = gl.program_id(0)
    # entries that share their keys run side by side (L2)
    base_b = gl.program_id(1) % n_batch
    pair = base_b * n_kv_heads + gl.program_id(1) // n_batch
    split = gl.program_id(2)
    n_splits = gl.num_programs(2)
    n_keys = gl.load(n_keys_ptr + base_b * n_keys_step)
    of_index = pair % index_pairs
    base = of_index * (tiles_per_pair * HALF)

    q = gl.allocate_shared_memory(gl.int8, [BM, D], q_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    # buffers of their own: in one array the compiler sees a hazard, hence a barrier, at each access
    ring = ()
    full = ()
    for _ in gl.static_range(STAGES):
        ring = ring + (gl.allocate_shared_memory(gl.int8, [BN, D], k_desc.layout),)
        full = full + (gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout()),)
    mbarrier.init(q_full, count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(full[s], count=1)
    hopper.fence_async_shared()
    mbarrier.expect(q_full, q_desc.block_type.nbytes)
    async_load(q_desc, [pair * n_rows + row_tile * BM, 0], q_full, q)

    first = split * tiles_per_split
    last = gl.minimum(first + tiles_per_split, gl.cdiv(n_keys, BN))
    whole = gl.minimum(last, n_keys // BN) - first
    paired = gl.maximum(whole - whole % STAGES, 0)
    n_tiles = last - first  # at most STAGES more than these
    for s in gl.static_range(STAGES):
        mbarrier.expect(full[s], k_desc.block_type.nbytes, pred=s < n_tiles)
        async_load(k_desc, [base + (first + s) * BN, 0], full[s], ring[s], pred=s < n_tiles)

    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, HALF, 32]
    )
    zero = gl.zeros([BM, HALF], gl.int32, layout=layout)
    # one (row, lane) is one thread's: the layout that the reduction gives
    where: gl.constexpr = block_values(zero, BM, 1)[0].type.layout
    count = gl.zeros([BM, 4], gl.int32, layout=where)
    row = row_tile * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, where))
    lane = gl.expand_dims(gl.arange(0, 4, layout=gl.SliceLayout(0, where)), 0)
    inside = row < n_rows
    at = row_ptr + (pair.to(gl.int64) * n_rows + row) * 4
    threshold = gl.load(at, mask=inside, other=float("inf"))
    threshold = gl.zeros_like(count).to(gl.float32) + gl.expand_dims(threshold, 1)
    query_norm = gl.load(at + 1, mask=inside, other=0.0)
    query_error = gl.load(at + 2, mask=inside, other=0.0)
    row_terms = (gl.expand_dims(query_norm, 1), gl.expand_dims(query_error, 1))
    block_ptr += of_index.to(gl.int64) * tiles_per_pair * 12
    slot = ((pair.to(gl.int64) * n_rows + gl.expand_dims(row, 1)) * n_splits + split) * 4 + lane
    segment = id_ptr + slot * ROOM
    wanted_ptr += of_index.to(gl.int64) * n_blocks + split * tiles_per_split * (4 * HALVES)
    wanted = wanted_ptr + gl.zeros_like(count)

    mbarrier.wait(q_full, 0)
    # queries in registers: a product then reads only keys from shared memory
    rows = q.load(gl.DotOperandLayout(operand_index=0, parent=layout, k_width=4))
    top = last * HALVES - 1
    terms = terms_of_blocks(block_ptr, gl.maximum(gl.minimum(first * HALVES, top), 0), lane)
    for start in range(0, paired, STAGES):
        turn = (start // STAGES) & 1
        mbarrier.wait(full[0], turn)
        even = start_product(rows, ring[0], 0, zero)
        odd = even
        spare = zero
        bounds = ()
        for u in gl.static_range(STAGES * HALVES):
            i = start + u // HALVES
            if u + 1 < STAGES * HALVES:
                if (u + 1) % HALVES == 0:
                    mbarrier.wait(full[(u + 1) // HALVES], turn)
                odd = start_product(rows, ring[(u + 1) // HALVES], (u + 1) % HALVES, spare)
                scores = hopper.warpgroup_mma_wait(1, deps=[even])
            else:
                scores = hopper.warpgroup_mma_wait(0, deps=[even])
            # a product ahead, or its latency would show
            after = gl.minimum((first + start) * HALVES + u + 1, top)
            next_terms = terms_of_blocks(block_ptr, after, lane)
            bounds = bounds + (bounds_of(scores, row_terms, terms, BM),)
            if u % HALVES == HALVES - 1:
                count = emit(count, bounds, threshold, segment, wanted, i, lane, ASM, CONSTRAINTS)
                bounds = ()
                ahead = i + STAGES
                mbarrier.expect(full[u // HALVES], k_desc.block_type.nbytes, pred=ahead < n_tiles)
                far = gl.minimum((first + ahead) * HALVES, top)
                prefetch(block_ptr + far * 12 + lane * 8)
                barrier()  # both warpgroups are done with tile i
                async_load(
                    k_desc,
                    [base + (first + ahead) * BN, 0],
                    full[u // HALVES],
                    ring[u // HALVES],
                    pred=ahead < n_tiles,
                )
            terms = next_terms
            spare = scores
            even = odd

    # what does not fill a round of the loop, and the tile the keys end in
    turn = (paired // STAGES) & 1
    for u in gl.static_range(STAGES):
        if paired + u < n_tiles:
            tile = first + paired + u
            mbarrier.wait(full[u], turn)
            bounds = ()
            for h in gl.static_range(HALVES):
                started = start_product(rows, ring[u], h, zero)
                scores = hopper.warpgroup_mma_wait(0, deps=[started])
                n = tile * BN + h * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
                scores = gl.where((n < n_keys)[None, :], scores, NO_KEY)
                terms = terms_of_blocks(block_ptr, tile * HALVES + h, lane)
                bounds = bounds + (bounds_of(scores, row_terms, terms, BM),)
            count = emit(
                count, bounds, threshold, segment, wanted, paired + u, lane, ASM, CONSTRAINTS
            )

    gl.store(count_ptr + slot, count, mask=gl.expand_dims(inside, 1) & (lane >= 0))


def descriptor(x: Tensor, rows: int) -> TensorDescriptor:
    """Of contiguous int8 x [.., D] as one 2-D array, `rows` of them at a time."""
    d = x.shape[-1]
    layout = gl.NVMMASharedLayout.get_default_for([rows, d], gl.int8)
    return TensorDescriptor(x, [x.numel() // d, d], [d, 1], [rows, d], layout)


def emit_blocks_gluon(
    rotated: Tensor,
    terms: Tensor,
    keys: Tensor,
    blocks: Tensor,
    n: Tensor,
    tile: Tile,
    per_split: int,
    splits: int,
    room: int,
    wanted: Tensor,
) -> tuple[Tensor, Tensor]:
    """Ids int16 (to be read as uint16, counted in the split) [B * Hkv, rows, splits * 4, room] and
    counts int32 [B * Hkv, rows, splits * 4].

    wanted int32 [B * Hkv or Hkv, N / 32], a count for each block, is added to.
    rotated int8 [B, Hkv, rows, D], terms [B * Hkv, rows, 4], keys int8 [B or 1, Hkv, capacity, D],
    blocks [B * Hkv or Hkv, tiles, 3, 4], n int32 [B], possibly with stride 0.
    """
    b, kv_heads, n_rows, _ = rotated.shape
    pairs = b * kv_heads
    segments, device = (pairs, n_rows, splits * 4), rotated.device
    ids = torch.empty(*segments, room, dtype=torch.int16, device=device)
    counts = torch.empty(segments, dtype=torch.int32, device=device)
    asm, constraints = emission_asm(tile.parts, room)
    emit_blocks_hopper[(-(-n_rows // tile.rows), pairs, splits)](
        descriptor(rotated, tile.rows), descriptor(keys, tile.keys), terms, blocks, ids, counts,
        wanted, n, n.stride(0), n_rows, b, kv_heads, per_split, *blocks.shape[:2], wanted.shape[1],
        BM=tile.rows, BN=tile.keys, STAGES=tile.stages, ROOM=room, ASM=asm, CONSTRAINTS=constraints,
        num_warps=tile.warps,
    )  # fmt: skip
    return ids, counts

"""Pass 1 for Hopper, in Gluon: `triton_prefill` with the reduction hidden behind the product.

Two accumulators take turns: while the tensor cores fill one, the warps reduce the other to block
maxima. Plain Triton waits for every product before it reduces. Same packed output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from reattention_kernels.device_number import number_step
from reattention_kernels.topk_keys.gluon_lists import (
    HALF,
    INT64_MIN,
    block_values,
    insert,
    raise_least,
)
from reattention_kernels.topk_keys.insertion import insertion_asm, shared_kth_asm

if TYPE_CHECKING:
    from reattention_kernels.topk_keys.triton import Tile

GLUON_DTYPES = {
    "torch.float16": gl.float16,
    "torch.bfloat16": gl.bfloat16,
}

MAX_SHARED = 8  # a longer comparison costs more than it saves
# two names changed after Triton 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def start_product(rows, tile_keys, half, spare):
    """Into the registers of `spare`, an accumulator that has been reduced."""
    keys = tile_keys.slice(half * HALF, HALF).permute((1, 0))
    return hopper.warpgroup_mma(rows, keys, spare, use_acc=False, is_async=True)


@gluon.jit
def load_queries(
    q_ptr, base_b, base_h, first, n_rows, n_queries, stride_qb, stride_qh, stride_qt,
    BM: gl.constexpr, D: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """Rows [BM, D] of a pair, zeros behind the last: row r is query r % n_queries of the KV head's
    query head r // n_queries."""
    EACH: gl.constexpr = 128 // q_ptr.dtype.element_ty.primitive_bitwidth  # 16 bytes a thread
    layout: gl.constexpr = gl.BlockedLayout(
        [1, EACH], [32 * EACH // D, D // EACH], [num_warps, 1], [1, 0]
    )
    row = first + gl.arange(0, BM, layout=gl.SliceLayout(1, layout))
    head = base_h * (n_rows // n_queries) + row // n_queries
    at = base_b.to(gl.int64) * stride_qb + head.to(gl.int64) * stride_qh
    at += (row % n_queries).to(gl.int64) * stride_qt
    d = gl.arange(0, D, layout=gl.SliceLayout(0, layout))
    at = gl.expand_dims(at, 1) + gl.expand_dims(d, 0)
    return gl.load(q_ptr + at, mask=gl.expand_dims(row < n_rows, 1), other=0)


@gluon.jit(
    do_not_specialize=["n_rows", "n_queries", "n_keys", "n_keys_step", "n_kv_heads",
                       "tiles_per_split", "rows_per_batch", "rows_per_head"]
)  # fmt: skip
def best_blocks_hopper(
    q_ptr,
    k_desc,
    out_ptr,
    n_rows,
    n_queries,
    n_keys,
    n_keys_step,
    n_kv_heads,
    tiles_per_split,
    stride_qb,
    stride_qh,
    stride_qt,
    rows_per_batch,
    rows_per_head,
    BM: gl.constexpr,
    BN: gl.constexpr,
    PARTS: gl.constexpr,
    K: gl.constexpr,
    SHARE: gl.constexpr,
    STAGES: gl.constexpr,
    ASM: gl.constexpr,
    CONSTRAINTS: gl.constexpr,
    SHARED_ASM: gl.constexpr,
    SHARED_CONSTRAINTS: gl.constexpr,
    num_warps: gl.constexpr,
):
    """Grid (row tiles, KV heads * batch, splits) -> out [batch * KV heads, rows, splits, 4, K].

    k_desc [.., D]: key n of a pair is its row b * rows_per_batch + h * rows_per_head + n; entry b
    has the first n_keys[b * n_keys_step] where n_keys is a pointer.
    """
    D: gl.constexpr = k_desc.block_type.shape[1]
    dtype: gl.constexpr = k_desc.dtype
    HALVES: gl.constexpr = BN // HALF
    row_tile = gl.program_id(0)
    # all entries of a KV head one after another: those of one row find its keys in L2
    n_batch = gl.num_programs(1) // n_kv_heads
    base_b = gl.program_id(1) % n_batch
    base_h = gl.program_id(1) // n_batch
    pair = base_b * n_kv_heads + base_h
    split = gl.program_id(2)
    n_splits = gl.num_programs(2)
    base = base_b * rows_per_batch + base_h * rows_per_head
    if n_keys.dtype.is_ptr():
        n_keys = gl.load(n_keys + base_b * n_keys_step)

    q = gl.allocate_shared_memory(dtype, [BM, D], k_desc.layout)
    # buffers of their own: in one array the compiler sees a hazard, hence a barrier, at each access
    ring = ()
    full = ()
    for _ in gl.static_range(STAGES):
        ring = ring + (gl.allocate_shared_memory(dtype, [BN, D], k_desc.layout),)
        full = full + (gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout()),)
    for s in gl.static_range(STAGES):
        mbarrier.init(full[s], count=1)
    hopper.fence_async_shared()

    first = split * tiles_per_split
    last = gl.minimum(first + tiles_per_split, gl.cdiv(n_keys, BN))
    whole = gl.minimum(last, n_keys // BN) - first
    paired = gl.maximum(whole - whole % STAGES, 0)
    for s in gl.static_range(STAGES):
        mbarrier.expect(full[s], k_desc.block_type.nbytes, pred=s < paired)
        async_load(k_desc, [base + (first + s) * BN, 0], full[s], ring[s], pred=s < paired)
    q.store(
        load_queries(
            q_ptr, base_b, base_h, row_tile * BM, n_rows, n_queries,
            stride_qb, stride_qh, stride_qt, BM, D, num_warps,
        )
    )  # fmt: skip

    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0],
        warps_per_cta=[num_warps, 1],
        instr_shape=[16, HALF, 16],
    )
    zero = gl.zeros([BM, HALF], gl.float32, layout=layout)
    # the lists have the layout that the reduction gives
    where: gl.constexpr = block_values(zero, BM, PARTS)[0].type.layout
    nothing = gl.full([BM, 4], -float("inf"), gl.float32, layout=where)
    state = (gl.full([BM, 4], INT64_MIN, gl.int64, layout=where),) * K + (nothing,)
    row = row_tile * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, where))
    lane = gl.expand_dims(gl.arange(0, 4, layout=gl.SliceLayout(0, where)), 0)

    # queries in registers: a product then reads only keys from shared memory
    rows = q.load(gl.DotOperandLayout(operand_index=0, parent=layout, k_width=2))
    for start in range(0, paired, STAGES):
        turn = (start // STAGES) & 1
        mbarrier.wait(full[0], turn)
        even = start_product(rows, ring[0], 0, zero)
        odd = even
        spare = zero
        values = ()
        for u in gl.static_range(STAGES * HALVES):
            i = start + u // HALVES
            if u + 1 < STAGES * HALVES:
                if (u + 1) % HALVES == 0:
                    mbarrier.wait(full[(u + 1) // HALVES], turn)
                odd = start_product(rows, ring[(u + 1) // HALVES], (u + 1) % HALVES, spare)
                scores = hopper.warpgroup_mma_wait(1, deps=[even])
            else:
                scores = hopper.warpgroup_mma_wait(0, deps=[even])
            values = values + block_values(scores, BM, PARTS)
            if u % HALVES == HALVES - 1:
                state = insert(state, values, first + i, lane, K, ASM, CONSTRAINTS)
                values = ()
                ahead = i + STAGES
                mbarrier.expect(full[u // HALVES], k_desc.block_type.nbytes, pred=ahead < paired)
                barrier()  # both warpgroups are done with tile i
                row_ahead = base + (first + ahead) * BN
                async_load(
                    k_desc,
                    [row_ahead, 0],
                    full[u // HALVES],
                    ring[u // HALVES],
                    pred=ahead < paired,
                )
            spare = scores
            even = odd
        if SHARE > 0:
            state = raise_least(state, K, SHARE, SHARED_ASM, SHARED_CONSTRAINTS)

    # what does not fill a round of the loop, and the tile the keys end in
    rest = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(rest, count=1)
    hopper.fence_async_shared()
    turn = 0
    for tile in range(first + paired, last):
        mbarrier.expect(rest, k_desc.block_type.nbytes)
        async_load(k_desc, [base + tile * BN, 0], rest, ring[0])
        mbarrier.wait(rest, turn)
        turn = turn ^ 1
        values = ()
        for h in gl.static_range(HALVES):
            keys = ring[0].slice(h * HALF, HALF).permute((1, 0))
            scores = hopper.warpgroup_mma(rows, keys, zero, use_acc=False)
            n = tile * BN + h * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
            scores = gl.where((n < n_keys)[None, :], scores, -float("inf"))
            values = values + block_values(scores, BM, PARTS)
        state = insert(state, values, tile, lane, K, ASM, CONSTRAINTS)
        barrier()

    slot = (pair.to(gl.int64) * n_rows + row[:, None]) * n_splits + split
    slot = slot * (4 * K) + lane * K
    inside = (row < n_rows)[:, None] & (lane >= 0)
    for j in gl.static_range(K):
        gl.store(out_ptr + slot + j, state[j], mask=inside)


def key_descriptor(key: Tensor, tile_keys: int) -> tuple[TensorDescriptor, int, int]:
    """A 2-D view for the bulk copy engine: all keys, their batch and head steps counted in rows.

    Entries of the batch that share their keys are no rows apart.
    """
    b, kv_heads, n, d = key.shape
    step = key.stride(2)
    batch_rows, head_rows = key.stride(0) // step, key.stride(1) // step
    height = (b - 1) * batch_rows + (kv_heads - 1) * head_rows + n
    layout = gl.NVMMASharedLayout.get_default_for([tile_keys, d], GLUON_DTYPES[str(key.dtype)])
    descriptor = TensorDescriptor(key, [height, d], [step, 1], [tile_keys, d], layout)
    return descriptor, batch_rows, head_rows


def best_blocks_gluon(
    query: Tensor,
    key: Tensor,
    k: int,
    top_k: int,
    tile: Tile,
    n: int | Tensor,
    per_split: int,
    splits: int,
) -> Tensor:
    """Packed int64 [B * Hkv, G * T, splits * 4 * k]: at least those with a row's top_k keys."""
    b, h, t, _ = query.shape
    kv_heads = key.shape[1]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    blocks = torch.empty(pairs, n_rows, splits * 4 * k, dtype=torch.int64, device=query.device)
    share = triton.next_power_of_2(top_k) if top_k <= MAX_SHARED else 0
    asm, constraints = insertion_asm(k, tile.parts)
    shared_asm, shared_constraints = shared_kth_asm(share) if share else (None, None)
    halves = tile.keys // HALF.value
    descriptor, batch_rows, head_rows = key_descriptor(key, tile.keys)
    best_blocks_hopper[(-(-n_rows // tile.rows), pairs, splits)](
        query, descriptor, blocks, n_rows, t, n, number_step(n),
        kv_heads, per_split, *query.stride()[:3], batch_rows, head_rows,
        BM=tile.rows, BN=tile.keys, PARTS=tile.parts // halves, K=k, SHARE=share,
        STAGES=tile.stages, ASM=asm, CONSTRAINTS=constraints,
        SHARED_ASM=shared_asm, SHARED_CONSTRAINTS=shared_constraints, num_warps=tile.warps,
    )  # fmt: skip
    return blocks

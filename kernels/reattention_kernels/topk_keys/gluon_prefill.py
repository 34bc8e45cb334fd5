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
    TINY,
    block_values,
    half_values,
    insert,
    raise_least,
)
from reattention_kernels.topk_keys.insertion import insertion_asm, shared_kth_asm

if TYPE_CHECKING:
    from reattention_kernels.topk_keys.triton import Tile

GLUON_DTYPES = {
    "torch.float16": gl.float16,
    "torch.bfloat16": gl.bfloat16,
    "torch.int8": gl.int8,
}

MAX_SHARED = 8  # a longer comparison costs more than it saves
# two names changed after Triton 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def block_terms(row_terms, block_ptr, tile, lane, INT8: gl.constexpr):
    """(row terms.., scale, error, size of the tile's four blocks); nothing for 16-bit keys."""
    if INT8:
        at = block_ptr + tile * 12 + lane
        return row_terms + (gl.load(at), gl.load(at + 4), gl.load(at + 8))
    else:
        return ()


@gluon.jit
def prefetch(pointer):
    """Towards L2, long before the load: a miss would take longer than a product."""
    gl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [pointer],
        dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


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
                       "tiles_per_split", "rows_per_batch", "rows_per_head", "tiles_per_pair"]
)  # fmt: skip
def best_blocks_hopper(
    q_ptr,
    k_desc,
    row_ptr,
    block_ptr,
    largest_ptr,
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
    tiles_per_pair,
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
    has the first n_keys[b * n_keys_step] where n_keys is a pointer. int8 inputs (PARTS = 1): the
    lists hold upper bounds, from row_ptr [B*Hkv, rows, 4], block_ptr [B*Hkv, tiles, 3, 4] and
    largest_ptr [B*Hkv].
    """
    D: gl.constexpr = k_desc.block_type.shape[1]
    dtype: gl.constexpr = k_desc.dtype
    HALVES: gl.constexpr = BN // HALF
    Q_WIDTH: gl.constexpr = 32 // dtype.primitive_bitwidth
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
        instr_shape=[16, HALF, 256 // dtype.primitive_bitwidth],
    )
    INT8: gl.constexpr = dtype == gl.int8
    acc_dtype: gl.constexpr = gl.int32 if INT8 else gl.float32
    zero = gl.zeros([BM, HALF], acc_dtype, layout=layout)
    # the lists have the layout that the reduction gives
    where: gl.constexpr = block_values(zero, BM, PARTS)[0].type.layout
    LOWS: gl.constexpr = SHARE if INT8 else 0
    nothing = gl.full([BM, 4], -float("inf"), gl.float32, layout=where)
    state = (gl.full([BM, 4], INT64_MIN, gl.int64, layout=where),) * K + (nothing,) * (1 + LOWS)
    rounding = TINY
    row = row_tile * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, where))
    lane = gl.expand_dims(gl.arange(0, 4, layout=gl.SliceLayout(0, where)), 0)
    row_terms = ()
    if INT8:
        at = row_ptr + (pair.to(gl.int64) * n_rows + row) * 4
        key_error = gl.load(at + 2, mask=row < n_rows, other=0.0)
        key_size = gl.load(at + 3, mask=row < n_rows, other=0.0)
        row_terms = (gl.expand_dims(key_error, 1), gl.expand_dims(key_size, 1))  # type: ignore[assignment]
        block_ptr += pair.to(gl.int64) * tiles_per_pair * 12
        # float32 sums of scores and bounds are off by D 2^-23 |q| |k| at most, as in int8_select
        norms = (key_error + key_size) * gl.load(largest_ptr + pair)
        rounding = gl.expand_dims(norms * (2 * 2.0**-23 * D**1.5), 1) + TINY

    # queries in registers: a product then reads only keys from shared memory
    rows = q.load(gl.DotOperandLayout(operand_index=0, parent=layout, k_width=Q_WIDTH))
    top = last * HALVES - 1
    terms = block_terms(row_terms, block_ptr, gl.minimum(first * HALVES, top), lane, INT8)
    for start in range(0, paired, STAGES):
        turn = (start // STAGES) & 1
        mbarrier.wait(full[0], turn)
        even = start_product(rows, ring[0], 0, zero)
        odd = even
        spare = zero
        values = ()
        slacks = ()
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
            next_terms = block_terms(row_terms, block_ptr, after, lane, INT8)
            upper, slack = half_values(scores, terms, BM, PARTS, INT8)
            values = values + upper
            slacks = slacks + slack
            if u % HALVES == HALVES - 1:
                state = insert(state, values, slacks, first + i, lane, K, LOWS, ASM, CONSTRAINTS)
                values = ()
                slacks = ()
                ahead = i + STAGES
                mbarrier.expect(full[u // HALVES], k_desc.block_type.nbytes, pred=ahead < paired)
                if INT8:
                    far = gl.minimum((first + ahead) * HALVES, top)
                    prefetch(block_ptr + far * 12 + lane * 8)
                barrier()  # both warpgroups are done with tile i
                row_ahead = base + (first + ahead) * BN
                async_load(
                    k_desc,
                    [row_ahead, 0],
                    full[u // HALVES],
                    ring[u // HALVES],
                    pred=ahead < paired,
                )
            terms = next_terms
            spare = scores
            even = odd
        if SHARE > 0:
            state = raise_least(state, rounding, K, LOWS, SHARE, SHARED_ASM, SHARED_CONSTRAINTS)

    # what does not fill a round of the loop, and the tile the keys end in
    rest = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    mbarrier.init(rest, count=1)
    hopper.fence_async_shared()
    turn = 0
    least: gl.constexpr = -(2**30) if INT8 else -float("inf")
    for tile in range(first + paired, last):
        mbarrier.expect(rest, k_desc.block_type.nbytes)
        async_load(k_desc, [base + tile * BN, 0], rest, ring[0])
        mbarrier.wait(rest, turn)
        turn = turn ^ 1
        values = ()
        slacks = ()
        for h in gl.static_range(HALVES):
            keys = ring[0].slice(h * HALF, HALF).permute((1, 0))
            scores = hopper.warpgroup_mma(rows, keys, zero, use_acc=False)
            n = tile * BN + h * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
            scores = gl.where((n < n_keys)[None, :], scores, least)
            terms = block_terms(row_terms, block_ptr, tile * HALVES + h, lane, INT8)
            upper, slack = half_values(scores, terms, BM, PARTS, INT8)
            values = values + upper
            slacks = slacks + slack
        state = insert(state, values, slacks, tile, lane, K, LOWS, ASM, CONSTRAINTS)
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
    bounds: tuple[Tensor, Tensor, Tensor] | None,
    k: int,
    top_k: int,
    tile: Tile,
    n: int | Tensor,
    per_split: int,
    splits: int,
) -> Tensor:
    """Packed int64 [B * Hkv, G * T, splits * 4 * k], at least the blocks with a row's top_k keys.

    bounds: of int8 inputs, what the rows, the blocks and the largest key contribute.
    """
    b, h, t, _ = query.shape
    kv_heads = key.shape[1]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    blocks = torch.empty(pairs, n_rows, splits * 4 * k, dtype=torch.int64, device=query.device)
    share = triton.next_power_of_2(top_k) if top_k <= MAX_SHARED else 0
    row_terms, block_terms, largest = bounds or (None, None, None)
    asm, constraints = insertion_asm(k, tile.parts, share if bounds else 0)
    shared_asm, shared_constraints = shared_kth_asm(share) if share else (None, None)
    halves = tile.keys // HALF.value
    descriptor, batch_rows, head_rows = key_descriptor(key, tile.keys)
    best_blocks_hopper[(-(-n_rows // tile.rows), pairs, splits)](
        query, descriptor, row_terms, block_terms, largest, blocks, n_rows, t, n, number_step(n),
        kv_heads, per_split, *query.stride()[:3], batch_rows, head_rows,
        0 if block_terms is None else block_terms.shape[1],
        BM=tile.rows, BN=tile.keys, PARTS=tile.parts // halves, K=k, SHARE=share,
        STAGES=tile.stages, ASM=asm, CONSTRAINTS=constraints,
        SHARED_ASM=shared_asm, SHARED_CONSTRAINTS=shared_constraints, num_warps=tile.warps,
    )  # fmt: skip
    return blocks

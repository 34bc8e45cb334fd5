"""Pass 1 for Hopper, in Gluon: `triton_prefill` with the reduction hidden behind the product.

Two accumulators take turns: while the tensor cores fill one, the warps reduce the other to block
maxima. Plain Triton waits for every product before it reduces. Same packed output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from reattention_kernels.topk_keys.triton_prefill import insertion_asm

if TYPE_CHECKING:
    from reattention_kernels.topk_keys.triton import Tile

GLUON_DTYPES = {
    "torch.float16": gl.float16,
    "torch.bfloat16": gl.bfloat16,
    "torch.int8": gl.int8,
}

HALF = gl.constexpr(128)  # keys per product; a tile has BN // HALF of them
INT64_MIN = gl.constexpr(-(2**63))
# two names changed after Triton 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def block_values(scores, terms, BM: gl.constexpr, PARTS: gl.constexpr):
    """scores [BM, HALF] -> PARTS tensors [BM, 4]: each lane's block maxima, or bounds for int8."""
    cut = gl.reshape(scores, (BM, PARTS, HALF // (8 * PARTS), 4, 2))
    value = gl.max(gl.max(cut, 4), 2)  # [BM, PARTS, 4]
    values = gl.split(gl.permute(value, (0, 2, 1))) if PARTS == 2 else (gl.reshape(value, (BM, 4)),)
    if len(terms) == 5:  # int8: upper bounds of the true scores, see int8_index
        key_error, key_size, scale, error, size = terms
        bound = values[0].to(gl.float32) * scale + key_error * error + key_size * size
        values = (bound,)
    return values


@gluon.jit
def insert(
    entries, values, tile, lane, K: gl.constexpr, ASM: gl.constexpr, CONSTRAINTS: gl.constexpr
):
    """All blocks of a tile into the lists; id = (tile * blocks per lane + part) * 4 + lane."""
    ident = gl.zeros_like(values[0]).to(gl.int32) + (lane + tile * (4 * len(values)))
    kept = gl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        entries + values + (ident,),
        dtype=(gl.int64,) * K if K > 1 else gl.int64,
        is_pure=True,
        pack=1,
    )
    if K == 1:
        return (kept,)
    else:
        return kept


@gluon.jit
def block_terms(row_terms, block_ptr, tile, lane, INT8: gl.constexpr):
    """(row terms.., scale, error, size of the tile's four blocks); nothing for 16-bit keys."""
    if INT8:
        at = block_ptr + tile * 12 + lane
        return row_terms + (gl.load(at), gl.load(at + 4), gl.load(at + 8))  # noqa: RUF005
    else:
        return ()


@gluon.jit
def issue_load(k_desc, row, ring, full, stage, pred, HALVES: gl.constexpr):
    mbarrier.expect(full.index(stage), HALVES * k_desc.block_type.nbytes, pred=pred)
    for h in gl.static_range(HALVES):
        to = ring.index(stage * HALVES + h)
        async_load(k_desc, [row + h * HALF, 0], full.index(stage), to, pred=pred)


@gluon.jit
def start_product(rows, ring, slot, spare):
    """Into the registers of `spare`, an accumulator that has been reduced."""
    keys = ring.index(slot).permute((1, 0))
    return hopper.warpgroup_mma(rows, keys, spare, use_acc=False, is_async=True)


@gluon.jit(do_not_specialize=["n_rows", "n_keys", "tiles_per_split", "tiles_per_pair"])
def best_blocks_hopper(
    q_desc,
    k_desc,
    row_ptr,
    block_ptr,
    out_ptr,
    n_rows,
    n_keys,
    n_kv_heads,
    tiles_per_split,
    rows_per_batch,
    rows_per_head,
    tiles_per_pair,
    BM: gl.constexpr,
    BN: gl.constexpr,
    PARTS: gl.constexpr,
    K: gl.constexpr,
    STAGES: gl.constexpr,
    UNROLL: gl.constexpr,
    Q_IN_REGISTERS: gl.constexpr,
    ASM: gl.constexpr,
    CONSTRAINTS: gl.constexpr,
    num_warps: gl.constexpr,
):
    """Grid (row tiles, batch * KV heads, splits) -> out [batch * KV heads, rows, splits, 4, K].

    q_desc [B*H*T, D]; k_desc [.., D]: key n of a pair is its row b * rows_per_batch +
    h * rows_per_head + n. int8 inputs (PARTS = 1): the lists hold upper bounds,
    from row_ptr [B*Hkv, rows, 4] and block_ptr [B*Hkv, tiles, 3, 4].
    """
    D: gl.constexpr = k_desc.block_type.shape[1]
    dtype: gl.constexpr = k_desc.dtype
    HALVES: gl.constexpr = BN // HALF
    Q_WIDTH: gl.constexpr = 32 // dtype.primitive_bitwidth
    row_tile = gl.program_id(0)
    pair = gl.program_id(1)
    split = gl.program_id(2)
    n_splits = gl.num_programs(2)
    base = (pair // n_kv_heads) * rows_per_batch + (pair % n_kv_heads) * rows_per_head

    q = gl.allocate_shared_memory(dtype, [BM, D], q_desc.layout)
    ring = gl.allocate_shared_memory(dtype, [STAGES * HALVES, HALF, D], k_desc.layout)
    q_full = gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout())
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    mbarrier.init(q_full, count=1)
    for s in gl.static_range(STAGES):
        mbarrier.init(full.index(s), count=1)
    hopper.fence_async_shared()
    mbarrier.expect(q_full, q_desc.block_type.nbytes)
    async_load(q_desc, [pair * n_rows + row_tile * BM, 0], q_full, q)

    first = split * tiles_per_split
    last = gl.minimum(first + tiles_per_split, gl.cdiv(n_keys, BN))
    whole = gl.minimum(last, n_keys // BN) - first
    paired = gl.maximum(whole - whole % UNROLL, 0)
    for s in gl.static_range(STAGES):
        issue_load(k_desc, base + (first + s) * BN, ring, full, s, s < paired, HALVES)

    layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0],
        warps_per_cta=[num_warps, 1],
        instr_shape=[16, HALF, 256 // dtype.primitive_bitwidth],
    )
    INT8: gl.constexpr = dtype == gl.int8
    acc_dtype: gl.constexpr = gl.int32 if INT8 else gl.float32
    zero = gl.zeros([BM, HALF], acc_dtype, layout=layout)
    # the lists have the layout that the reduction gives
    where: gl.constexpr = block_values(zero, (), BM, PARTS)[0].type.layout
    entries = (gl.full([BM, 4], INT64_MIN, gl.int64, layout=where),) * K
    row = row_tile * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, where))
    lane = gl.expand_dims(gl.arange(0, 4, layout=gl.SliceLayout(0, where)), 0)
    row_terms = ()
    if INT8:
        at = row_ptr + (pair.to(gl.int64) * n_rows + row) * 4
        key_error = gl.load(at + 2, mask=row < n_rows, other=0.0)
        key_size = gl.load(at + 3, mask=row < n_rows, other=0.0)
        row_terms = (gl.expand_dims(key_error, 1), gl.expand_dims(key_size, 1))  # type: ignore[assignment]
        block_ptr += pair.to(gl.int64) * tiles_per_pair * 12

    mbarrier.wait(q_full, 0)
    if Q_IN_REGISTERS:  # halves what the product reads from shared memory beside the keys
        rows = q.load(gl.DotOperandLayout(operand_index=0, parent=layout, k_width=Q_WIDTH))
    else:
        rows = q
    top = last * HALVES - 1
    terms = block_terms(row_terms, block_ptr, gl.minimum(first * HALVES, top), lane, INT8)
    for start in range(0, paired, UNROLL):
        mbarrier.wait(full.index(start % STAGES), (start // STAGES) & 1)
        even = start_product(rows, ring, start % STAGES * HALVES, zero)
        odd = even
        spare = zero
        values = ()
        for u in gl.static_range(UNROLL * HALVES):
            i = start + u // HALVES
            if u + 1 < UNROLL * HALVES:
                following = start + (u + 1) // HALVES
                stage = following % STAGES
                if (u + 1) % HALVES == 0:
                    mbarrier.wait(full.index(stage), (following // STAGES) & 1)
                odd = start_product(rows, ring, stage * HALVES + (u + 1) % HALVES, spare)
                scores = hopper.warpgroup_mma_wait(1, deps=[even])
            else:
                scores = hopper.warpgroup_mma_wait(0, deps=[even])
            # a product ahead, or its latency would show
            after = gl.minimum((first + start) * HALVES + u + 1, top)
            next_terms = block_terms(row_terms, block_ptr, after, lane, INT8)
            values = values + block_values(scores, terms, BM, PARTS)
            if u % HALVES == HALVES - 1:
                entries = insert(entries, values, first + i, lane, K, ASM, CONSTRAINTS)
                values = ()
                barrier()  # both warpgroups are done with tile i
                ahead = i + STAGES
                row_ahead = base + (first + ahead) * BN
                issue_load(k_desc, row_ahead, ring, full, i % STAGES, ahead < paired, HALVES)
            terms = next_terms
            spare = scores
            even = odd

    # what does not fill a round of the loop, and the tile the keys end in
    rest = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
    mbarrier.init(rest.index(0), count=1)
    hopper.fence_async_shared()
    phase = 0
    least: gl.constexpr = -(2**30) if INT8 else -float("inf")
    for tile in range(first + paired, last):
        issue_load(k_desc, base + tile * BN, ring, rest, 0, True, HALVES)
        mbarrier.wait(rest.index(0), phase)
        phase = phase ^ 1
        values = ()
        for h in gl.static_range(HALVES):
            keys = ring.index(h).permute((1, 0))
            scores = hopper.warpgroup_mma(rows, keys, zero, use_acc=False)
            n = tile * BN + h * HALF + gl.arange(0, HALF, layout=gl.SliceLayout(0, layout))
            scores = gl.where((n < n_keys)[None, :], scores, least)
            terms = block_terms(row_terms, block_ptr, tile * HALVES + h, lane, INT8)
            values = values + block_values(scores, terms, BM, PARTS)
        entries = insert(entries, values, tile, lane, K, ASM, CONSTRAINTS)
        barrier()

    slot = (pair.to(gl.int64) * n_rows + row[:, None]) * n_splits + split
    slot = slot * (4 * K) + lane * K
    inside = (row < n_rows)[:, None] & (lane >= 0)
    for j in gl.static_range(K):
        gl.store(out_ptr + slot + j, entries[j], mask=inside)


def descriptors(
    query: Tensor, key: Tensor, rows: int
) -> tuple[TensorDescriptor, TensorDescriptor, int, int]:
    """2-D views for the bulk copy engine: all query rows, and all keys with their batch and head
    steps counted in rows."""
    b, _, _, d = query.shape
    _, kv_heads, n, _ = key.shape
    step = key.stride(2)
    batch_rows, head_rows = key.stride(0) // step, key.stride(1) // step
    height = (b - 1) * batch_rows + (kv_heads - 1) * head_rows + n
    query = query.contiguous()
    dtype = GLUON_DTYPES[str(key.dtype)]
    q_layout = gl.NVMMASharedLayout.get_default_for([rows, d], dtype)
    k_layout = gl.NVMMASharedLayout.get_default_for([HALF.value, d], dtype)
    q_desc = TensorDescriptor(query, [query.numel() // d, d], [d, 1], [rows, d], q_layout)
    k_desc = TensorDescriptor(key, [height, d], [step, 1], [HALF.value, d], k_layout)
    return q_desc, k_desc, batch_rows, head_rows


def best_blocks_gluon(
    query: Tensor,
    key: Tensor,
    row_terms: Tensor | None,
    block_terms: Tensor | None,
    k: int,
    tile: Tile,
    per_split: int,
    splits: int,
) -> Tensor:
    """Packed int64 [B * Hkv, G * T, splits * 4 * k]; int8 inputs come with their terms."""
    b, h, t, _ = query.shape
    kv_heads, n = key.shape[1], key.shape[2]
    n_rows, pairs = h // kv_heads * t, b * kv_heads
    blocks = torch.empty(pairs, n_rows, splits * 4 * k, dtype=torch.int64, device=query.device)
    asm, constraints = insertion_asm(k, tile.parts)
    halves = tile.keys // HALF.value
    q_desc, k_desc, batch_rows, head_rows = descriptors(query, key, tile.rows)
    best_blocks_hopper[(-(-n_rows // tile.rows), pairs, splits)](
        q_desc, k_desc, row_terms, block_terms, blocks, n_rows, n, kv_heads, per_split,
        batch_rows, head_rows, 0 if block_terms is None else block_terms.shape[1],
        BM=tile.rows, BN=tile.keys, PARTS=tile.parts // halves, K=k, STAGES=tile.stages,
        UNROLL=tile.unroll, Q_IN_REGISTERS=tile.q_in_registers,
        ASM=asm, CONSTRAINTS=constraints, num_warps=tile.warps,
    )  # fmt: skip
    return blocks

"""`attend_causal` for Hopper in Gluon: a block's softmax runs while the tensor cores are busy with
the product before it, as in FlashAttention-3 (Shah et al., 2024, arXiv 2407.08608, section 3.2)."""

from __future__ import annotations

import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia import hopper
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from reattention_kernels.causal.triton import LOG2E
from reattention_kernels.device_number import number_step

GLUON_DTYPES = {"torch.float16": gl.float16, "torch.bfloat16": gl.bfloat16}
ROWS, KEYS, WARPS, STAGES = 128, 128, 8, 2
# two names changed after Triton 3.6
barrier = getattr(gl, "barrier", None) or gl.thread_barrier
async_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared


@gluon.jit
def softmax_step(scores, scale, m, total):
    """As in `causal.triton`: weights, shrink, m, total."""
    m_new = gl.maximum(m, gl.max(scores, 1) * scale)
    p = gl.exp2(scores * scale - gl.expand_dims(m_new, 1))
    shrink = gl.exp2(m - m_new)
    return p, shrink, m_new, total * shrink + gl.sum(p, 1)


@gluon.jit
def start_pair(k_desc, v_desc, slot, entry, head, j, blocks, BN: gl.constexpr):
    """Block j of the keys and block j - 1 of the values: what one step needs. Pairs 0 and `blocks`
    lack one; zeros or rows that nobody reads come in its place."""
    keys, values, full = slot
    mbarrier.expect(full, k_desc.block_type.nbytes + v_desc.block_type.nbytes, pred=j <= blocks)
    async_load(k_desc, [entry, head, j * BN, 0], full, keys, pred=j <= blocks)
    async_load(v_desc, [entry, head, (j - 1) * BN, 0], full, values, pred=j <= blocks)


@gluon.jit
def after(value):
    """`value`, >= 0, in place: without a sleep that never comes ptxas would move all that leads to
    it behind the wait that follows, and nothing would overlap."""
    return gl.inline_asm_elementwise(
        "{.reg .pred p; setp.lt.f32 p, $1, 0f00000000; @p nanosleep.u32 1; mov.b32 $0, $1;}",
        "=f,f", [value], dtype=gl.float32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def masked(scores, j, last):
    """Scores of block j's keys that a row sees, up to its `last`."""
    columns: gl.constexpr = gl.SliceLayout(0, scores.type.layout)
    key = j * scores.shape[1] + gl.arange(0, scores.shape[1], layout=columns)
    return gl.where(gl.expand_dims(key, 0) <= gl.expand_dims(last, 1), scores, -float("inf"))


@gluon.jit
def step(
    q, slot, weights, acc, m, total, scale, j, last, s_layout: gl.constexpr,
    p_layout: gl.constexpr, MASKED: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    """The scores of block j, and meanwhile the weights of the block before it times its values:
    weights, acc, m, total."""
    keys, values, full = slot
    mbarrier.wait(full, (j // STAGES) & 1)
    BM: gl.constexpr = q.shape[0]
    BN: gl.constexpr = keys.shape[2]
    D: gl.constexpr = keys.shape[3]
    across = keys.reshape([BN, D]).permute((1, 0))
    zero = gl.zeros([BM, BN], gl.float32, layout=s_layout)
    next_scores = hopper.warpgroup_mma(q, across, zero, use_acc=False, is_async=True)
    added = hopper.warpgroup_mma(weights, values.reshape([BN, D]), acc, is_async=True)
    scores = hopper.warpgroup_mma_wait(1, deps=[next_scores])
    if MASKED:
        scores = masked(scores, j, last)
    p, shrink, m, total = softmax_step(scores, scale, m, total)
    total = after(total)
    acc, p = hopper.warpgroup_mma_wait(0, deps=[added, p])
    acc = acc * gl.expand_dims(gl.convert_layout(shrink, gl.SliceLayout(1, acc.type.layout)), 1)
    return gl.convert_layout(p.to(keys.dtype), p_layout), acc, m, total


@gluon.jit(do_not_specialize=["n_queries", "n_keys", "limit_step", "entry_step"])
def causal_attention_hopper(
    q_ptr,
    k_desc,
    v_desc,
    limit_ptr,
    out_ptr,
    scale,
    n_queries,
    n_keys,
    limit_step,
    entry_step,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_ob,
    stride_oh,
    stride_ot,
    GROUP: gl.constexpr,
    BM: gl.constexpr,
    BN: gl.constexpr,
    STAGES: gl.constexpr,
    num_warps: gl.constexpr,
):
    """Grid (query tiles, heads, batch); q, out [B, H, T, D]; k, v [B or 1, Hkv, N, D], entry b is
    b * entry_step; limit int32, `limit_step` apart from entry to entry, or None."""
    D: gl.constexpr = k_desc.block_type.shape[3]
    dtype: gl.constexpr = k_desc.dtype
    # the last tile sees most keys: start it first
    tile = gl.num_programs(0) - 1 - gl.program_id(0)
    head = gl.program_id(1)
    b = gl.program_id(2)
    kv_head = head // GROUP
    entry = b * entry_step
    size = n_keys
    if limit_ptr is not None:
        size = gl.load(limit_ptr + b * limit_step)

    # buffers of their own: in one array the compiler sees a hazard, hence a barrier, at each access
    slots = ()
    for _ in gl.static_range(STAGES):
        slots = slots + (
            (
                gl.allocate_shared_memory(dtype, [1, 1, BN, D], k_desc.layout),
                gl.allocate_shared_memory(dtype, [1, 1, BN, D], v_desc.layout),
                gl.allocate_shared_memory(gl.int64, [1], mbarrier.MBarrierLayout()),
            ),
        )
    for s in gl.static_range(STAGES):
        mbarrier.init(slots[s][2], count=1)
    hopper.fence_async_shared()

    first_last = size - n_queries + tile * BM  # the last key that the tile's first query sees
    blocks = gl.cdiv(gl.minimum(size, first_last + BM), BN)
    whole = gl.maximum((first_last + 1) // BN, 1)
    paired = 1 + (whole - 1) // STAGES * STAGES  # pair j is in slot j % STAGES
    for s in gl.static_range(STAGES):
        start_pair(k_desc, v_desc, slots[s], entry, kv_head, s, blocks, BN)

    # 8 elements of a row a thread: 16 bytes
    by_rows: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [num_warps, 1], [1, 0])
    t = tile * BM + gl.arange(0, BM, layout=gl.SliceLayout(1, by_rows))
    d = gl.arange(0, D, layout=gl.SliceLayout(0, by_rows))
    t_at = gl.expand_dims(t.to(gl.int64), 1)
    inside = gl.expand_dims(t < n_queries, 1) & (gl.expand_dims(d, 0) >= 0)
    q_base = q_ptr + b.to(gl.int64) * stride_qb + head.to(gl.int64) * stride_qh
    q_tile = gl.load(q_base + t_at * stride_qt + gl.expand_dims(d, 0), mask=inside, other=0.0)
    q_layout: gl.constexpr = gl.NVMMASharedLayout.get_default_for([BM, D], dtype)
    q = gl.allocate_shared_memory(dtype, [BM, D], q_layout, q_tile)
    hopper.fence_async_shared()
    barrier()

    s_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, BN, 16]
    )
    o_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, D, 16]
    )
    p_layout: gl.constexpr = gl.DotOperandLayout(operand_index=0, parent=o_layout, k_width=2)
    row: gl.constexpr = gl.SliceLayout(1, s_layout)
    m = gl.full([BM], -float("inf"), gl.float32, layout=row)
    total = gl.zeros([BM], gl.float32, layout=row)
    acc = gl.zeros([BM, D], gl.float32, layout=o_layout)
    last = first_last + gl.arange(0, BM, layout=row)

    # block 0: with few keys not every query sees all of it
    mbarrier.wait(slots[0][2], 0)
    across = slots[0][0].reshape([BN, D]).permute((1, 0))
    zero = gl.zeros([BM, BN], gl.float32, layout=s_layout)
    scores = masked(hopper.warpgroup_mma(q, across, zero, use_acc=False), 0, last)
    p, _, m, total = softmax_step(scores, scale, m, total)
    weights = gl.convert_layout(p.to(dtype), p_layout)
    barrier()
    start_pair(k_desc, v_desc, slots[0], entry, kv_head, STAGES, blocks, BN)
    for start in range(1, paired, STAGES):
        for u in gl.static_range(STAGES):
            weights, acc, m, total = step(
                q, slots[(1 + u) % STAGES], weights, acc, m, total, scale, start + u, last,
                s_layout, p_layout, False, STAGES,
            )  # fmt: skip
            barrier()  # both warpgroups are done with the slot
            ahead = start + u + STAGES
            start_pair(k_desc, v_desc, slots[(1 + u) % STAGES], entry, kv_head, ahead, blocks, BN)
    # what does not fill a round of the loop, and the blocks that not every query sees
    for start in range(paired, blocks, STAGES):
        for u in gl.static_range(STAGES):
            if start + u < blocks:
                weights, acc, m, total = step(
                    q, slots[(1 + u) % STAGES], weights, acc, m, total, scale, start + u, last,
                    s_layout, p_layout, True, STAGES,
                )  # fmt: skip
                barrier()
                ahead = start + u + STAGES
                start_pair(
                    k_desc, v_desc, slots[(1 + u) % STAGES], entry, kv_head, ahead, blocks, BN
                )
    for s in gl.static_range(STAGES):
        if blocks % STAGES == s:
            mbarrier.wait(slots[s][2], (blocks // STAGES) & 1)
            acc = hopper.warpgroup_mma(weights, slots[s][1].reshape([BN, D]), acc)
    answer = acc / gl.expand_dims(gl.convert_layout(total, gl.SliceLayout(1, o_layout)), 1)
    answer = gl.convert_layout(answer.to(dtype), by_rows)
    out_base = out_ptr + b.to(gl.int64) * stride_ob + head.to(gl.int64) * stride_oh
    gl.store(out_base + t_at * stride_ot + gl.expand_dims(d, 0), answer, mask=inside)


def attend_causal_gluon(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    lengths: Tensor | None,
    out: Tensor,
    _mask: object = None,
) -> Tensor:
    """Same contract as `attend_causal`; what lies behind `lengths` must be finite. D 64 or 128."""
    b, h, t, d = query.shape
    shared = b > 1 and key.stride(0) == 0 and value.stride(0) == 0  # one cache for all entries
    if shared:
        key, value = key[0][None], value[0][None]
    layout = gl.NVMMASharedLayout.get_default_for([1, 1, KEYS, d], GLUON_DTYPES[str(key.dtype)])
    k_desc, v_desc = (
        TensorDescriptor(x, list(x.shape), list(x.stride()), [1, 1, KEYS, d], layout)
        for x in (key, value)
    )
    step = 0 if lengths is None else number_step(lengths)
    causal_attention_hopper[(triton.cdiv(t, ROWS), h, b)](
        query, k_desc, v_desc, lengths, out, scale * LOG2E, t, key.shape[2], step,
        0 if shared else 1, *query.stride()[:3], *out.stride()[:3],
        GROUP=h // key.shape[1], BM=ROWS, BN=KEYS, STAGES=STAGES, num_warps=WARPS,
    )  # fmt: skip
    return out

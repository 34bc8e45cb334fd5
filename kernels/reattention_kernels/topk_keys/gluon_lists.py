"""The lists of best blocks in the Hopper kernel: maxima in, what is of no use left out.

A list belongs to a row and one of its four lanes: K packed entries, and `least` (a block no better
is of no use).
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from reattention_kernels.topk_keys import triton_prefill
from reattention_kernels.topk_keys.triton_prefill import INT64_MIN

# how far below the k-th best a block must lie to be of no use
from reattention_kernels.topk_keys.triton_rescore import MARGIN

HALF = gl.constexpr(128)  # keys per product; a tile has two of them
TINY = gl.constexpr(1e-30)  # keeps the comparison strict where the k-th best is zero

ordered_bits = gluon.jit(triton_prefill.ordered_bits.fn)
ordered_value = gluon.jit(triton_prefill.ordered_value.fn)


@gluon.jit
def block_values(scores, BM: gl.constexpr, PARTS: gl.constexpr):
    """scores [BM, HALF] -> PARTS tensors [BM, 4]: each lane's block maxima."""
    # one long chain of maxima per block: integers then take three operands an instruction
    cut = gl.reshape(scores, (BM, PARTS, HALF // (8 * PARTS), 4, 2))
    cut = gl.reshape(gl.permute(cut, (0, 1, 3, 2, 4)), (BM, PARTS, 4, HALF // (4 * PARTS)))
    value = gl.max(cut, 3)  # [BM, PARTS, 4]
    if PARTS == 2:
        return gl.split(gl.permute(value, (0, 2, 1)))
    else:
        return (gl.reshape(value, (BM, 4)),)


@gluon.jit
def insert(
    state, values, tile, lane, K: gl.constexpr, ASM: gl.constexpr, CONSTRAINTS: gl.constexpr
):  # fmt: skip
    """All blocks of a tile into the lists; id = (tile * blocks per lane + part) * 4 + lane."""
    ident = gl.zeros_like(values[0]).to(gl.int32) + (lane + tile * (4 * len(values)))
    return gl.inline_asm_elementwise(
        ASM,
        CONSTRAINTS,
        state + values + (ident,),
        dtype=(gl.int64,) * K + (gl.float32,),
        is_pure=True,
        pack=1,
    )


@gluon.jit
def raise_least(
    state, K: gl.constexpr, SHARE: gl.constexpr, ASM: gl.constexpr, CONSTRAINTS: gl.constexpr
):  # fmt: skip
    """A block that cannot reach the k-th best of all four lanes of its row is of no use.

    SHARE values a lane are compared.
    """
    best = ()
    for j in gl.static_range(SHARE):
        if j < K:
            value = ordered_value((state[j] >> 32).to(gl.int32))
            best = best + (gl.where(state[j] == INT64_MIN, -float("inf"), value),)
        else:
            best = best + (gl.full_like(state[K], -float("inf")),)
    kth = gl.inline_asm_elementwise(ASM, CONSTRAINTS, best, dtype=gl.float32, is_pure=False, pack=1)
    floor = kth - gl.maximum(kth, -kth) * MARGIN - TINY
    return state[:K] + (gl.maximum(state[K], floor),)

"""Pass 2 for Hopper, in Gluon: `triton_rescore` in two fifths of its instructions, which were its
limit long before the memory was.

One warp serves a row. Scores are spread over the lanes, one each, before they are compared, and all
comparisons are of 32 bits: the largest integer of a warp is then one instruction.
"""

from __future__ import annotations

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from reattention_kernels.device_number import number_step
from reattention_kernels.topk_keys.gluon_lists import (
    INT64_MIN,
    MARGIN,
    ordered_bits,
    ordered_value,
)
from reattention_kernels.topk_keys.triton_prefill import ID_TOP

BLOCK = gl.constexpr(16)  # keys a block; two blocks are scored together, one key a lane
NOTHING = gl.constexpr(-(2**31))  # as the high half of an entry
MINUS_INFINITY = gl.constexpr(-(2**31) + 2**23 - 1)  # both as ordered bits
INFINITY = gl.constexpr(0x7F800000)


@gluon.jit
def take_largest(high, low):
    """The largest (high, low) as two scalars, and what high is without it."""
    top = gl.max(high, 0)
    equal = high == top
    ident = gl.max(gl.where(equal, low, -1), 0)
    return top, ident, gl.where(equal & (low == ident), NOTHING, high)


@gluon.jit
def best_of(highs, lows, K: gl.constexpr):
    """The K largest of tuples of (high, low) [32], in its first places."""
    slot = gl.arange(0, 32, layout=gl.BlockedLayout([1], [32], [1], [0]))
    high_best = gl.full_like(highs[0], NOTHING)
    low_best = gl.full_like(lows[0], 0)
    for j in gl.static_range(K):
        most = highs[0]
        for i in gl.static_range(1, len(highs)):
            most = gl.maximum(most, highs[i])
        top = gl.max(most, 0)
        ids = gl.where(highs[0] == top, lows[0], -1)
        for i in gl.static_range(1, len(highs)):
            ids = gl.maximum(ids, gl.where(highs[i] == top, lows[i], -1))
        ident = gl.max(ids, 0)
        left = ()
        for i in gl.static_range(len(highs)):
            taken = (highs[i] == top) & (lows[i] == ident)
            left = left + (gl.where(taken, NOTHING, highs[i]),)  # type: ignore[assignment]
        highs = left
        high_best = gl.where(slot == j, top, high_best)
        low_best = gl.where(slot == j, ident, low_best)
    return high_best, low_best


@gluon.jit
def products(q, base_k, start, offset, n_keys, stride_kn, column):
    """Scores of a block's keys [BLOCK]; keys past the end are the last one again."""
    n = gl.maximum(gl.minimum(start + offset, n_keys - 1), 0)
    at = n.to(gl.int64) * stride_kn
    keys = gl.load(base_k + (gl.expand_dims(at, 1) + gl.expand_dims(column, 0)))
    return gl.sum(keys.to(gl.float32) * gl.expand_dims(q, 0), 1)


@gluon.jit
def block_start(high, low):
    """Of an entry: the first of its block's keys, -1 for none."""
    block = ID_TOP - low
    return gl.where(high == NOTHING, -1, block // 4 * (4 * BLOCK) + 2 * (block % 4))


@gluon.jit
def score_two(q, base_k, first, second, offset, n_keys, stride_kn, column):
    """(ordered score, ID_TOP - position) of the keys of two blocks [2 * BLOCK], one a lane."""
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    one = products(q, base_k, first, offset, n_keys, stride_kn, column)
    other = products(q, base_k, second, offset, n_keys, stride_kn, column)
    both = gl.reshape(gl.join(one, other), (2 * BLOCK,))
    scores = gl.convert_layout(both, flat)
    lane = gl.arange(0, 2 * BLOCK, layout=flat)
    start = gl.where(lane % 2 == 0, first, second)
    n = start + 8 * (lane // 4) + lane // 2 % 2
    high = gl.where((start >= 0) & (n < n_keys), ordered_bits(scores), NOTHING)
    return high, ID_TOP - n


@gluon.jit(
    do_not_specialize=["n_queries", "n_keys", "n_keys_step", "n_less", "n_kv_heads", "n_cand"]
)
def rescore_hopper(
    q_ptr,
    k_ptr,
    cand_ptr,
    out_ptr,
    n_queries,
    n_keys,
    n_keys_step,
    n_less,
    n_kv_heads,
    n_cand,
    stride_qb,
    stride_qh,
    stride_qt,
    stride_kb,
    stride_kh,
    stride_kn,
    GROUP: gl.constexpr,
    D: gl.constexpr,
    K: gl.constexpr,
    CP: gl.constexpr,
):
    """Grid (queries * GROUP, KV heads * batch); as `rescore_kernel`, for blocks of 4 lanes."""
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    many: gl.constexpr = gl.BlockedLayout([CP // 32], [32], [1], [0])
    tile: gl.constexpr = gl.BlockedLayout([1, 8], [256 // D, D // 8], [1, 1], [1, 0])
    n_batch = gl.num_programs(1) // n_kv_heads
    base_b = gl.program_id(1) % n_batch
    base_h = gl.program_id(1) // n_batch
    pair = base_b * n_kv_heads + base_h
    if n_keys.dtype.is_ptr():
        n_keys = gl.load(n_keys + base_b * n_keys_step)
    n_keys -= n_less
    # neighbours in the grid share a query position: their heads like the same keys (L2)
    t = gl.program_id(0) // GROUP
    g = gl.program_id(0) % GROUP
    base_b = base_b.to(gl.int64)
    head = base_h * GROUP + g

    c = gl.arange(0, CP, layout=many)
    row = pair.to(gl.int64) * GROUP * n_queries + g * n_queries + t
    cand = gl.load(cand_ptr + row * n_cand + c, mask=c < n_cand, other=INT64_MIN)
    high = (cand >> 32).to(gl.int32)
    low = cand.to(gl.int32)
    # a block without keys: the plain form scores those past the end -inf
    high = gl.where((high > MINUS_INFINITY) & (high <= INFINITY), high, NOTHING)

    column = gl.arange(0, D, layout=gl.SliceLayout(0, tile))
    e = gl.arange(0, BLOCK, layout=gl.SliceLayout(1, tile))
    offset = 8 * (e // 2) + e % 2
    q_at = base_b * stride_qb + head.to(gl.int64) * stride_qh + t.to(gl.int64) * stride_qt
    q = gl.load(q_ptr + q_at + column).to(gl.float32)
    base_k = k_ptr + base_b * stride_kb + base_h.to(gl.int64) * stride_kh

    # the k best blocks: all that is needed, as a rule
    highs = ()
    lows = ()
    floor = -float("inf")
    for i in gl.static_range((K + 1) // 2):
        top, ident, high = take_largest(high, low)
        first = block_start(top, ident)
        second = -1
        if 2 * i + 1 < K:
            top, ident, high = take_largest(high, low)
            second = block_start(top, ident)
        if 2 * (i + 1) >= K:
            value = ordered_value(top)
            floor = gl.where(
                top == NOTHING, -float("inf"), value - gl.maximum(value, -value) * MARGIN
            )
        some, ids = score_two(q, base_k, first, second, offset, n_keys, stride_kn, column)
        highs = highs + (some,)  # type: ignore[assignment]
        lows = lows + (ids,)  # type: ignore[assignment]
    high_best, low_best = best_of(highs, lows, K)
    # those as large as the k-th, of which there are more where maxima are equal
    top, ident, high = take_largest(high, low)
    while (top != NOTHING) & (ordered_value(top) >= floor):
        some, ids = score_two(
            q, base_k, block_start(top, ident), -1, offset, n_keys, stride_kn, column
        )
        high_best, low_best = best_of((high_best, some), (low_best, ids), K)
        top, ident, high = take_largest(high, low)

    slot = gl.arange(0, 32, layout=flat)
    found = gl.where(high_best == NOTHING, -1, ID_TOP - low_best)
    out_at = (base_b * n_kv_heads * GROUP + head) * n_queries + t
    gl.store(out_ptr + out_at * K + slot, found, mask=slot < K)


def rescore_gluon(
    query: Tensor,
    key: Tensor,
    blocks: Tensor,
    out: Tensor,
    n: int | Tensor,
    less: int,
    room: int,
    key_steps: tuple[int, ...],
) -> None:
    """Pass 2: out int32 [B, H, T, k]; room: at least as many as a row's candidates."""
    _, h, t, d = query.shape
    kv_heads, k, n_cand = key.shape[1], out.shape[3], blocks.shape[2]
    rescore_hopper[(h // kv_heads * t, blocks.shape[0])](
        query, key, blocks, out, t, n, number_step(n), less, kv_heads, n_cand,
        *query.stride()[:3], *key_steps, GROUP=h // kv_heads, D=d, K=k, CP=room, num_warps=1,
    )  # fmt: skip

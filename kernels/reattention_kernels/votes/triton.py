"""Triton form of `select_positions`: no sort of the winners, no wait for the host.

Few winners (a decode step) are compared with each other in one program, without a sort. Many are
counted by atomics; a histogram of the counts gives the fewest votes that still win (the level), and
the positions above it, plus the lowest ones at it, are the kept ones. All sums are of integers, so
the result does not depend on the order of the atomics. No kernel's shape depends on how many
winners or positions there are, so that each is compiled once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.dependent import await_previous, dependent
from reattention_kernels.device_number import number, number_step
from reattention_kernels.votes.weights import MAX_WEIGHT

FEW_WINNERS = 128  # comparing 256 with each other spills, and takes ten times as long
FAR = tl.constexpr(2**31 - 1)  # behind every position
FEW_WARPS = 8
SEGMENT = 2048  # positions per program of the scans over all positions
SEGMENTS_AT_ONCE = 256
FEW_VOTES = 64  # positions with fewer are counted in the program first: they are many
BINS_AT_ONCE = 512
WEIGHTED_BINS = 4096  # weighted votes have so many more levels


@triton.jit
def store_spans(
    start, length, offset, out_ptr, count_ptr, WIDTH: tl.constexpr, SPAN_P: tl.constexpr
):
    """start, start + 1, .. to places offset, offset + 1, .. of out [WIDTH], -1 behind the last."""
    total = tl.sum(length, 0)
    e = tl.arange(0, SPAN_P)
    inside = e[None, :] < length[:, None]
    tl.store(out_ptr + offset[:, None] + e[None, :], start[:, None] + e[None, :], mask=inside)
    for base in range(total // 1024 * 1024, WIDTH, 1024):
        slot = base + tl.arange(0, 1024)
        tl.store(out_ptr + slot, slot * 0 - 1, mask=(slot >= total) & (slot < WIDTH))
    tl.store(count_ptr, total)


@triton.jit
def write_spans(
    pos,
    kept,
    out_ptr,
    count_ptr,
    n,
    P: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPAN_P: tl.constexpr,
):
    """The union of the spans of the kept positions [P], ascending, -1 behind.

    The positions ascend too, the kept ones first. Spans have one length, so each adds what lies
    past the end of the one before it.
    """
    i = tl.arange(0, P)
    end = tl.minimum(pos - SPAN // 2 + SPAN, n)
    end_before = tl.where(i > 0, tl.gather(end, tl.maximum(i - 1, 0), 0), 0)
    start = tl.maximum(tl.maximum(pos - SPAN // 2, 0), end_before)
    length = tl.where(kept, tl.maximum(end - start, 0), 0)
    offset = tl.cumsum(length, 0) - length
    store_spans(start, length, offset, out_ptr, count_ptr, WIDTH, SPAN_P)


@triton.jit(do_not_specialize=["n_winners", "n", "n_step", "n_less"])
def select_few_kernel(
    winners_ptr,
    weights_ptr,
    out_ptr,
    count_ptr,
    n_winners,
    n,
    n_step,
    n_less,
    MAX_SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPAN_P: tl.constexpr,
    P: tl.constexpr,
    WEIGHTED: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (batch,): the whole operation for at most P winners.

    Each winner is compared with each, and nothing is sorted: a decode step waits for every exchange
    between threads. In [P, P] a column is a winner and the rows are the others, so that a thread
    adds up what it holds.
    """
    await_previous(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, P)
    pos = tl.load(winners_ptr + row * n_winners + i, mask=i < n_winners, other=-1)
    end = number(n, row * n_step, n_less)
    same = pos[:, None] == pos[None, :]
    if WEIGHTED:
        weight = tl.load(weights_ptr + row * n_winners + i, mask=i < n_winners, other=0)
        both = tl.where(i[:, None] < i[None, :], 65536, 0) + weight[:, None]
    else:
        both = tl.where(i[:, None] < i[None, :], 65537, 1)
    both = tl.sum(tl.where(same, both, 0), 0)  # votes, and above them those that came earlier
    kept = (pos >= 0) & (both < 65536)  # one stands for all equal ones
    if MAX_SPANS < P:
        order = (both.to(tl.int64) << 32) | (0x7FFFFFFF - pos).to(tl.int64)
        order = tl.where(kept, order, 0)
        rank = tl.sum((order[:, None] > order[None, :]).to(tl.int32), 0)
        kept = kept & (rank < MAX_SPANS)
    # spans have one length, so each adds what lies past the end of the one before it
    last = tl.where(kept, tl.minimum(pos - SPAN // 2 + SPAN, end), 0)
    below = tl.where(kept, pos, FAR)[:, None] < pos[None, :]
    before = tl.max(tl.where(below, last[:, None], 0), 0)
    start = tl.maximum(tl.maximum(pos - SPAN // 2, 0), before)
    length = tl.where(kept, tl.maximum(last - start, 0), 0)
    offset = tl.sum(tl.where(below, length[:, None], 0), 0)
    store_spans(start, length, offset, out_ptr + row * WIDTH, count_ptr + row, WIDTH, SPAN_P)


@triton.jit(do_not_specialize=["n_winners", "n"])
def count_votes_kernel(
    winners_ptr, weights_ptr, votes_ptr, n_winners, n, WEIGHTED: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid (winner blocks, batch)."""
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pos = tl.load(winners_ptr + row * n_winners + i, mask=i < n_winners, other=-1)
    weight = pos * 0 + 1
    if WEIGHTED:
        weight = tl.load(weights_ptr + row * n_winners + i, mask=i < n_winners, other=0)
    tl.atomic_add(votes_ptr + row * n + pos, weight, mask=pos >= 0, sem="relaxed")


@triton.jit(do_not_specialize=["hist_ptr", "n", "n_bins"])
def histogram_kernel(votes_ptr, hist_ptr, n, n_bins, FEW: tl.constexpr, SEG: tl.constexpr):
    """Grid (segments, batch): how many positions have v > 0 votes; the last bin holds all above."""
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * SEG + tl.arange(0, SEG)
    votes = tl.load(votes_ptr + row * n + i, mask=i < n, other=0)
    if tl.max(votes, 0) > 0:
        votes = tl.minimum(votes, n_bins - 1)
        hist = tl.histogram(tl.where(votes < FEW, votes, 0), FEW)
        v = tl.arange(0, FEW)
        hist_ptr += row * n_bins
        tl.atomic_add(hist_ptr + v, hist, mask=(hist > 0) & (v > 0), sem="relaxed")
        tl.atomic_add(hist_ptr + votes, votes * 0 + 1, mask=votes >= FEW, sem="relaxed")


@triton.jit
def winning_votes(hist_ptr, n_bins, MAX_SPANS: tl.constexpr, BINS: tl.constexpr):
    """(v, above): fewer than MAX_SPANS positions have more than v votes, and with those at v there
    are enough; v = 0 where everything voted for is kept."""
    level = 0
    n_above = 0
    passed = 0  # positions in the bins above
    for back in range(tl.cdiv(n_bins, BINS)):
        v = n_bins - (back + 1) * BINS + tl.arange(0, BINS)
        hist = tl.load(hist_ptr + v, mask=v > 0, other=0)
        at_least = passed + tl.cumsum(hist, 0, reverse=True)
        here = tl.max(tl.where((at_least >= MAX_SPANS) & (v > 0), v, 0), 0)
        above = passed + tl.sum(tl.where(v > here, hist, 0), 0)
        n_above = tl.where(level > 0, n_above, above)
        level = tl.maximum(level, here)
        passed += tl.sum(hist, 0)
    return level, n_above


@triton.jit(do_not_specialize=["hist_ptr", "n", "n_bins", "n_segments"])
def mark_kernel(
    votes_ptr,
    hist_ptr,
    level_ptr,
    size_ptr,
    n,
    n_bins,
    n_segments,
    MAX_SPANS: tl.constexpr,
    BINS: tl.constexpr,
    SEG: tl.constexpr,
):
    """Grid (segments, batch) -> level [batch, 2], the winning level and how many positions are
    above; size [batch, 2, segments], how many of each segment are above and at the level."""
    row = tl.program_id(1).to(tl.int64)
    segment = tl.program_id(0)
    i = segment * SEG + tl.arange(0, SEG)
    votes = tl.load(votes_ptr + row * n + i, mask=i < n, other=0)
    level, n_above = winning_votes(hist_ptr + row * n_bins, n_bins, MAX_SPANS, BINS)
    tl.store(level_ptr + row * 2, level)  # the same from every segment
    tl.store(level_ptr + row * 2 + 1, n_above)
    size_ptr += row * 2 * n_segments + segment
    tl.store(size_ptr, tl.sum((votes > level).to(tl.int32), 0))
    equal = (votes == level) & (votes > 0)
    tl.store(size_ptr + n_segments, tl.sum(equal.to(tl.int32), 0))


@triton.jit(do_not_specialize=["list_ptr", "n", "n_segments"])
def list_kernel(
    votes_ptr,
    level_ptr,
    size_ptr,
    list_ptr,
    n,
    n_segments,
    MAX_SPANS: tl.constexpr,
    SEG: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Grid (segments, batch) -> list [batch, MAX_SPANS], the kept positions + 1, ascending: all
    above the level and the lowest at it."""
    row = tl.program_id(1).to(tl.int64)
    segment = tl.program_id(0)
    size_ptr += row * 2 * n_segments
    if tl.load(size_ptr + segment) + tl.load(size_ptr + n_segments + segment) == 0:
        return
    above_before = 0
    equal_before = 0
    for first in range(0, segment, CHUNK):
        j = first + tl.arange(0, CHUNK)
        above_before += tl.sum(tl.load(size_ptr + j, mask=j < segment, other=0), 0)
        equal_before += tl.sum(tl.load(size_ptr + n_segments + j, mask=j < segment, other=0), 0)
    level = tl.load(level_ptr + row * 2)
    wanted = MAX_SPANS - tl.load(level_ptr + row * 2 + 1)  # of those at the level
    i = segment * SEG + tl.arange(0, SEG)
    votes = tl.load(votes_ptr + row * n + i, mask=i < n, other=0)
    above = votes > level
    equal = (votes == level) & (votes > 0)
    both = tl.cumsum(above.to(tl.int32) + (equal.to(tl.int32) << 16), 0)  # two counts in one
    n_equal = equal_before + (both >> 16)
    slot = above_before + (both & 0xFFFF) + tl.minimum(n_equal, wanted) - 1
    chosen = above | (equal & (n_equal <= wanted))
    tl.store(list_ptr + row * MAX_SPANS + slot, i + 1, mask=chosen)


@triton.jit(do_not_specialize=["list_ptr", "n", "n_step", "n_less"])
def finish_kernel(
    list_ptr,
    out_ptr,
    count_ptr,
    n,
    n_step,
    n_less,
    MAX_SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPAN_P: tl.constexpr,
    P: tl.constexpr,
):
    """Grid (batch,): the spans of the listed positions."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, P)
    pos = tl.load(list_ptr + row * MAX_SPANS + i, mask=i < MAX_SPANS, other=0) - 1
    end = number(n, row * n_step, n_less)
    write_spans(pos, pos >= 0, out_ptr + row * WIDTH, count_ptr + row, end, P, WIDTH, SPAN, SPAN_P)


def select_positions_triton(
    winners: Tensor,
    n: int,
    max_spans: int,
    span_size: int,
    device_length: Tensor | None = None,
    less: int = 0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Same contract as `reattention_kernels.select_positions`; winners int32."""
    b, device = winners.shape[0], winners.device
    end = n if device_length is None else device_length
    winners = winners.reshape(b, -1).to(torch.int32)
    n_winners, width = winners.shape[1], max_spans * span_size
    weighted = weights is not None
    weights = winners if weights is None else weights.reshape(b, -1).to(torch.int32)
    out = torch.empty(b, width, dtype=torch.int32, device=device)
    count = torch.empty(b, dtype=torch.int32, device=device)
    spans = dict(
        MAX_SPANS=max_spans, WIDTH=width, SPAN=span_size, SPAN_P=triton.next_power_of_2(span_size)
    )
    if n_winners <= FEW_WINNERS:
        padded = max(16, triton.next_power_of_2(n_winners))
        select_few_kernel[(b,)](
            winners, weights, out, count, n_winners, end, number_step(end), less,
            P=padded, WEIGHTED=weighted, num_warps=FEW_WARPS, **spans, **dependent(winners),
        )  # fmt: skip
        return out, count
    # fewer than max_spans positions can reach the last bin, so the level lies below it
    bins = n_winners * (MAX_WEIGHT if weighted else 1) // max_spans + 3
    segments = triton.cdiv(n, SEGMENT)
    zeros = torch.zeros(b * (n + bins + max_spans), dtype=torch.int32, device=device)
    votes, hist, kept = zeros.split([b * n, b * bins, b * max_spans])
    levels = torch.empty(b, 2, dtype=torch.int32, device=device)
    sizes = torch.empty(b, 2, segments, dtype=torch.int32, device=device)
    grid = (segments, b)
    count_votes_kernel[(triton.cdiv(n_winners, 1024), b)](
        winners, weights, votes, n_winners, n, WEIGHTED=weighted, BLOCK=1024
    )
    histogram_kernel[grid](votes, hist, n, bins, FEW=FEW_VOTES, SEG=SEGMENT)
    mark_kernel[grid](
        votes, hist, levels, sizes, n, bins, segments,
        MAX_SPANS=max_spans, BINS=WEIGHTED_BINS if weighted else BINS_AT_ONCE, SEG=SEGMENT,
    )  # fmt: skip
    list_kernel[grid](
        votes, levels, sizes, kept, n, segments,
        MAX_SPANS=max_spans, SEG=SEGMENT, CHUNK=SEGMENTS_AT_ONCE,
    )  # fmt: skip
    padded = max(16, triton.next_power_of_2(max_spans))
    finish_kernel[(b,)](
        kept, out, count, end, number_step(end), less, P=padded,
        num_warps=4 if padded <= 128 else 8, **spans,
    )  # fmt: skip
    return out, count

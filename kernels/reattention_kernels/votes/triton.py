"""Triton form of `select_positions`: no sort, no wait for the host.

Few winners (a decode step) are compared with each other in one program. Many are counted by
atomics; a histogram of the counts gives the fewest votes that still win, and the positions above
it, plus the lowest ones at it, are the kept ones. All sums are of integers, so the result does not
depend on the order of the atomics.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.device_number import number, number_step

FEW_WINNERS = 128  # comparing 256 with each other spills, and takes ten times as long
FAR = tl.constexpr(2**30)  # behind every position; adding a span to it does not overflow
SEGMENT = 4096  # positions per program of the scans over all positions
SEGMENTS_AT_ONCE = 64


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
    """The union of the spans of the kept positions [P] (distinct), ascending, -1 behind.

    Spans have one length, so in order of position each adds what lies past the end of the one
    before it.
    """
    pos = tl.sort(tl.where(kept, pos, FAR))
    kept = pos < FAR
    i = tl.arange(0, P)
    end = tl.minimum(pos - SPAN // 2 + SPAN, n)
    end_before = tl.where(i > 0, tl.gather(end, tl.maximum(i - 1, 0), 0), 0)
    start = tl.maximum(tl.maximum(pos - SPAN // 2, 0), end_before)
    length = tl.where(kept, tl.maximum(end - start, 0), 0)
    offset = tl.cumsum(length, 0) - length
    total = tl.sum(length, 0)
    e = tl.arange(0, SPAN_P)
    inside = kept[:, None] & (e[None, :] < length[:, None])
    tl.store(out_ptr + offset[:, None] + e[None, :], start[:, None] + e[None, :], mask=inside)
    for base in range(0, WIDTH, 1024):
        slot = base + tl.arange(0, 1024)
        tl.store(out_ptr + slot, slot * 0 - 1, mask=(slot >= total) & (slot < WIDTH))
    tl.store(count_ptr, total)


@triton.jit(do_not_specialize=["n_winners", "n", "n_step"])
def select_few_kernel(
    winners_ptr,
    out_ptr,
    count_ptr,
    n_winners,
    n,
    n_step,
    MAX_SPANS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPAN_P: tl.constexpr,
    P: tl.constexpr,
):
    """Grid (batch,): the whole operation for at most P winners."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, P)
    pos = tl.load(winners_ptr + row * n_winners + i, mask=i < n_winners, other=-1)
    same = (pos[:, None] == pos[None, :]) & (pos >= 0)[:, None]
    votes = tl.sum(same.to(tl.int32), 1)
    earlier = tl.sum((same & (i[None, :] < i[:, None])).to(tl.int32), 1)
    single = (pos >= 0) & (earlier == 0)  # one stands for all equal ones
    beats = (votes[None, :] > votes[:, None]) | (
        (votes[None, :] == votes[:, None]) & (pos[None, :] < pos[:, None])
    )
    rank = tl.sum((beats & single[None, :]).to(tl.int32), 1)
    kept = single & (rank < MAX_SPANS)
    end = number(n, row * n_step)
    write_spans(pos, kept, out_ptr + row * WIDTH, count_ptr + row, end, P, WIDTH, SPAN, SPAN_P)


@triton.jit(do_not_specialize=["n_winners", "n"])
def count_votes_kernel(winners_ptr, votes_ptr, n_winners, n, BLOCK: tl.constexpr):
    """Grid (winner blocks, batch)."""
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pos = tl.load(winners_ptr + row * n_winners + i, mask=i < n_winners, other=-1)
    tl.atomic_add(votes_ptr + row * n + pos, pos * 0 + 1, mask=pos >= 0, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def histogram_kernel(votes_ptr, hist_ptr, n, BINS: tl.constexpr, SEG: tl.constexpr):
    """Grid (segments, batch): how many positions have v votes; the last bin holds all above."""
    row = tl.program_id(1).to(tl.int64)
    i = tl.program_id(0) * SEG + tl.arange(0, SEG)
    votes = tl.load(votes_ptr + row * n + i, mask=i < n, other=0)
    if tl.max(votes, 0) > 0:
        hist = tl.histogram(tl.minimum(votes, BINS - 1), BINS)
        v = tl.arange(0, BINS)
        tl.atomic_add(hist_ptr + row * BINS + v, hist, mask=(hist > 0) & (v > 0), sem="relaxed")


@triton.jit
def winning_votes(hist_ptr, row, MAX_SPANS: tl.constexpr, BINS: tl.constexpr):
    """(v, above): fewer than MAX_SPANS positions have more than v votes, and with those at v there
    are enough; v = 0 where everything voted for is kept."""
    v = tl.arange(0, BINS)
    hist = tl.load(hist_ptr + row * BINS + v)
    at_least = tl.cumsum(hist, 0, reverse=True)
    level = tl.max(tl.where((at_least >= MAX_SPANS) & (v > 0), v, 0), 0)
    return level, tl.sum(tl.where((v > level) & (v > 0), hist, 0), 0)


@triton.jit
def list_in_segment(i, chosen, list_ptr, size_ptr, at, MAX_SPANS: tl.constexpr):
    """The first MAX_SPANS chosen positions of segment `at`, in order, and how many there are."""
    slot = tl.cumsum(chosen.to(tl.int32), 0) - 1
    tl.store(list_ptr + at * MAX_SPANS + slot, i, mask=chosen & (slot < MAX_SPANS))
    tl.store(size_ptr + at, tl.sum(chosen.to(tl.int32), 0))


@triton.jit(do_not_specialize=["n", "n_segments"])
def mark_kernel(
    votes_ptr,
    hist_ptr,
    above_ptr,
    n_above_ptr,
    equal_ptr,
    n_equal_ptr,
    n,
    n_segments,
    MAX_SPANS: tl.constexpr,
    BINS: tl.constexpr,
    SEG: tl.constexpr,
):
    """Grid (segments, batch): per segment the positions above the winning level and those at it."""
    row = tl.program_id(1).to(tl.int64)
    at = row * n_segments + tl.program_id(0)
    i = tl.program_id(0) * SEG + tl.arange(0, SEG)
    votes = tl.load(votes_ptr + row * n + i, mask=i < n, other=0)
    if tl.max(votes, 0) > 0:
        level, _ = winning_votes(hist_ptr, row, MAX_SPANS, BINS)
        list_in_segment(i, votes > level, above_ptr, n_above_ptr, at, MAX_SPANS)
        equal = (votes == level) & (votes > 0)
        list_in_segment(i, equal, equal_ptr, n_equal_ptr, at, MAX_SPANS)
    else:
        tl.store(n_above_ptr + at, 0)
        tl.store(n_equal_ptr + at, 0)


@triton.jit
def find_in_segments(order, size_ptr, n_segments, MAX_SPANS: tl.constexpr, CHUNK: tl.constexpr):
    """Slot in the segments' lists of the order-th listed position; -1 where there is none."""
    slot = order * 0 - 1
    base = 0
    for first in range(0, n_segments, CHUNK):
        j = first + tl.arange(0, CHUNK)
        size = tl.load(size_ptr + j, mask=j < n_segments, other=0)
        stop = base + tl.cumsum(size, 0)
        start = stop - size
        mine = (order[:, None] >= start[None, :]) & (order[:, None] < stop[None, :])
        at = j[None, :] * MAX_SPANS + order[:, None] - start[None, :]
        slot = tl.maximum(slot, tl.max(tl.where(mine, at, -1), 1))
        base += tl.sum(size, 0)
    return slot


@triton.jit(do_not_specialize=["n", "n_step", "n_segments"])
def finish_kernel(
    hist_ptr,
    above_ptr,
    n_above_ptr,
    equal_ptr,
    n_equal_ptr,
    out_ptr,
    count_ptr,
    n,
    n_step,
    n_segments,
    MAX_SPANS: tl.constexpr,
    BINS: tl.constexpr,
    WIDTH: tl.constexpr,
    SPAN: tl.constexpr,
    SPAN_P: tl.constexpr,
    P: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Grid (batch,): all above the level, the lowest at it, their spans."""
    row = tl.program_id(0).to(tl.int64)
    _, n_above = winning_votes(hist_ptr, row, MAX_SPANS, BINS)
    i = tl.arange(0, P)
    lists = row * n_segments
    above = find_in_segments(i, n_above_ptr + lists, n_segments, MAX_SPANS, CHUNK)
    equal = find_in_segments(i - n_above, n_equal_ptr + lists, n_segments, MAX_SPANS, CHUNK)
    equal = tl.where((i >= n_above) & (i < MAX_SPANS), equal, -1)
    pos = tl.load(above_ptr + lists * MAX_SPANS + above, mask=above >= 0, other=-1)
    more = tl.load(equal_ptr + lists * MAX_SPANS + equal, mask=equal >= 0, other=-1)
    pos = tl.maximum(pos, more)
    end = number(n, row * n_step)
    write_spans(pos, pos >= 0, out_ptr + row * WIDTH, count_ptr + row, end, P, WIDTH, SPAN, SPAN_P)


def select_positions_triton(
    winners: Tensor, n: int, max_spans: int, span_size: int, device_length: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Same contract as `reattention_kernels.select_positions`; winners int32."""
    b, device = winners.shape[0], winners.device
    end = n if device_length is None else device_length
    winners = winners.reshape(b, -1).to(torch.int32)
    n_winners, width = winners.shape[1], max_spans * span_size
    out = torch.empty(b, width, dtype=torch.int32, device=device)
    count = torch.empty(b, dtype=torch.int32, device=device)
    spans = dict(
        MAX_SPANS=max_spans, WIDTH=width, SPAN=span_size, SPAN_P=triton.next_power_of_2(span_size)
    )
    if n_winners <= FEW_WINNERS:
        padded = max(16, triton.next_power_of_2(n_winners))
        select_few_kernel[(b,)](
            winners, out, count, n_winners, end, number_step(end), P=padded, num_warps=16, **spans
        )
        return out, count
    # fewer than max_spans positions can reach the last bin, so the level lies below it
    bins = triton.next_power_of_2(n_winners // max_spans + 3)
    segments = triton.cdiv(n, SEGMENT)
    zeros = torch.zeros(b * (n + bins), dtype=torch.int32, device=device)
    votes, hist = zeros.split([b * n, b * bins])
    # per segment: positions above the level, positions at it, and how many of each
    lists = torch.empty(2, b, segments, max_spans, dtype=torch.int32, device=device)
    sizes = torch.empty(2, b, segments, dtype=torch.int32, device=device)
    marked = (lists[0], sizes[0], lists[1], sizes[1])
    count_votes_kernel[(triton.cdiv(n_winners, 1024), b)](winners, votes, n_winners, n, BLOCK=1024)
    histogram_kernel[(segments, b)](votes, hist, n, BINS=bins, SEG=SEGMENT)
    mark_kernel[(segments, b)](
        votes, hist, *marked, n, segments, MAX_SPANS=max_spans, BINS=bins, SEG=SEGMENT
    )
    padded = max(16, triton.next_power_of_2(max_spans))
    finish_kernel[(b,)](
        hist, *marked, out, count, end, number_step(end), segments, BINS=bins, P=padded,
        CHUNK=SEGMENTS_AT_ONCE, num_warps=4 if padded <= 128 else 8, **spans,
    )  # fmt: skip
    return out, count

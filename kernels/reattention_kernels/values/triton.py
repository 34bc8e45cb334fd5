"""Triton form of `fetch_values`: a kernel that reads the device's memory and the host's."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from reattention_kernels.dependent import await_previous, dependent
from reattention_kernels.device_number import number
from reattention_kernels.values.naive import HeldValues, SplitValues

TILE = 4096  # elements that a program has under way at a time


@triton.jit(do_not_specialize=["width", "offset", "written", "first", "stride_pv"])
def fetch_values_kernel(
    positions_ptr,
    count_ptr,
    recent_ptr,
    addresses_ptr,
    out_ptr,
    old_positions_ptr,
    old_values_ptr,
    new_positions_ptr,
    slots_ptr,
    counts_ptr,
    turn_ptr,
    width,
    offset,
    written,
    first,
    room,
    stride_pv,
    stride_pg,
    stride_rh,
    stride_rn,
    ROW: tl.constexpr,
    PART: tl.constexpr,
    PART_P: tl.constexpr,
    D: tl.constexpr,
    TOKENS: tl.constexpr,
    BLOCK: tl.constexpr,
    HELD: tl.constexpr,
    DEPENDENT: tl.constexpr,
):
    """Grid (programs, groups of heads, views). A token has ROW elements, a group's are PART."""
    await_previous(DEPENDENT)
    group, view = tl.program_id(1), tl.program_id(2)
    positions_ptr += view * stride_pv
    out_ptr += view.to(tl.int64) * width * ROW
    count = width
    if count_ptr is not None:
        count = tl.load(count_ptr + view)
    oldest = number(written) - (room - first)
    new_row = 0
    old_row = 0
    if turn_ptr is not None:
        turn = tl.load(turn_ptr) % 2
        new_row = turn * width
        old_row = (1 - turn) * width
    element = tl.arange(0, PART_P)
    in_part = (element < PART)[None, :]
    element += group * PART
    recent_at = (element // D).to(tl.int64) * stride_rh + element % D
    for start in range(tl.program_id(0) * TOKENS, width, tl.num_programs(0) * TOKENS):
        i = start + tl.arange(0, TOKENS)
        real = i < count
        p = tl.load(positions_ptr + group * stride_pg + i, mask=real, other=0).to(tl.int32)
        p = tl.where(real, p + offset, 0)
        far = real & (p >= first) & (p < oldest)
        near = real & ((p < first) | (p >= oldest))
        row = tl.where(p < first, p, first + (p - first) % (room - first))
        at_recent = row.to(tl.int64)[:, None] * stride_rn + recent_at[None, :]
        if HELD:
            slot = tl.load(slots_ptr + p, mask=real, other=-1)
            known = real & (slot >= 0) & (slot < width)
            known &= tl.load(old_positions_ptr + old_row + slot, mask=known, other=-1) == p
            far = far & ~known
            near = near & ~known
            at_old = (old_row + slot).to(tl.int64)[:, None] * ROW + element[None, :]
            old = tl.load(old_values_ptr + at_old, mask=known[:, None] & in_part, other=0.0)
        recent = tl.load(recent_ptr + at_recent, mask=near[:, None] & in_part, other=0.0)
        address = tl.load(addresses_ptr + p // BLOCK, mask=far, other=0)
        host_ptr = tl.multiple_of(address.to(tl.pointer_type(out_ptr.dtype.element_ty)), 16)
        host_at = (p % BLOCK)[:, None] * ROW + element[None, :]
        value = tl.load(host_ptr[:, None] + host_at, mask=far[:, None] & in_part, other=0.0)
        value = tl.where(near[:, None], recent, value)
        if HELD:
            value = tl.where(known[:, None], old, value)
            if new_positions_ptr is not None:
                tl.store(new_positions_ptr + new_row + i, tl.where(real, p, -1), mask=i < width)
                tl.store(slots_ptr + p, i, mask=real)
            if start < count:
                tl.atomic_add(counts_ptr, tl.sum(real.to(tl.int64)), sem="relaxed")
                tl.atomic_add(counts_ptr + 1, tl.sum(known.to(tl.int64)), sem="relaxed")
                tl.atomic_add(counts_ptr + 2, tl.sum(far.to(tl.int64)), sem="relaxed")
        at_out = (new_row + i).to(tl.int64)[:, None] * ROW + element[None, :]
        tl.store(out_ptr + at_out, value, mask=real[:, None] & in_part)


def fetch_values_triton(
    source: SplitValues,
    positions: Tensor,
    out: Tensor,
    count: Tensor | None = None,
    offset: int = 0,
    held: HeldValues | None = None,
    programs: int | None = None,
) -> None:
    """Same contract as `reattention_kernels.values.fetch_values`."""
    views = len(positions) if positions.ndim == 3 else 1
    groups, width = positions.shape[-2:]
    if not width:
        return
    recent, first, written, blocks, addresses = source
    heads, dim = out.shape[-2:]
    row, part = heads * dim, heads * dim // groups
    padded = triton.next_power_of_2(part)
    tokens = max(1, TILE // padded)
    grid = triton.cdiv(width, tokens)
    grid = grid if programs is None else min(grid, max(1, programs // views))
    block = blocks[0].shape[0] if blocks else 1
    old_positions, old_values, new_positions, slots, counts, turn = held or [None] * 6
    # a kernel of another stream is not one that this one may start beside
    layout = dependent(out) if programs is None else {"DEPENDENT": False}
    fetch_values_kernel[(grid, groups, views)](
        positions, count, recent, addresses, out,
        old_positions, old_values, new_positions, slots, counts, turn,
        width, offset, written, first, recent.shape[1],
        positions.stride(0) if views > 1 else 0, positions.stride(-2), *recent.stride()[:2],
        ROW=row, PART=part, PART_P=padded, D=dim, TOKENS=tokens, BLOCK=block,
        HELD=held is not None, **layout,
    )  # fmt: skip

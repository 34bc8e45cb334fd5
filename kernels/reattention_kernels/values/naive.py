"""Reference form of `fetch_values`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class SplitValues(NamedTuple):
    """Values of a row of tokens, all in host memory but for the last, and some on the device.

    recent: [Hkv, R, D] on the device: positions below `first`, and of the others the last
        R - first that were written; position p lies at row first + (p - first) % (R - first).
    written: how many tokens were written; int32 [1] where only the device knows.
    blocks: [tokens, Hkv, D] each, as many tokens in each: all positions that are not `recent`.
    addresses: int64 [at least as many as blocks], on the device: where each block lies.
    """

    recent: Tensor
    first: int
    written: int | Tensor
    blocks: Sequence[Tensor]
    addresses: Tensor


class HeldValues(NamedTuple):
    """Positions and values that the last call brought, and where this one leaves its own.

    old_positions: int32 [W], -1 for none; old_values: [W, Hkv, D]; new_positions: int32 [W], None
        where this call leaves nothing.
    slots: int32 [tokens], where each position was brought to last; any numbers where never.
    counts: int64 [3], to which are added: positions asked for, held, and read from host memory.
    turn: int32 [1] of the device, for calls that a CUDA graph repeats. Then positions and values
        have two halves, [2, ...]: half `turn % 2` is written, the other one is the last call's.
    """

    old_positions: Tensor
    old_values: Tensor
    new_positions: Tensor | None
    slots: Tensor
    counts: Tensor
    turn: Tensor | None = None


def recent_rows(positions: Tensor, first: int, rows: int) -> Tensor:
    """Where positions lie in `SplitValues.recent` of so many rows."""
    return torch.where(positions < first, positions, first + (positions - first) % (rows - first))


def fetch_values_naive(
    source: SplitValues,
    positions: Tensor,
    out: Tensor,
    count: Tensor | None = None,
    offset: int = 0,
    held: HeldValues | None = None,
) -> None:
    """Same contract as `reattention_kernels.values.fetch_values`."""
    if positions.ndim == 3:
        for i, some in enumerate(positions):
            of_view = None if count is None else count[i : i + 1]
            fetch_values_naive(source, some, out[i], of_view, offset, held)
        return
    if held is not None:
        _fetch_new(source, positions[0], out, count, offset, held)
        return
    n = positions.shape[1] if count is None else int(count)
    groups, heads = positions.shape[0], out.shape[1] // positions.shape[0]
    for g in range(groups):
        part = slice(g * heads, (g + 1) * heads)
        out[:n, part] = _read(source, positions[g, :n].long() + offset, part)[0]


def _fetch_new(
    source: SplitValues,
    positions: Tensor,
    out: Tensor,
    count: Tensor | None,
    offset: int,
    held: HeldValues,
) -> None:
    old_positions, old_values, new_positions, slots, counts, turn = held
    if turn is not None:
        assert new_positions is not None
        new = int(turn) % 2
        out, new_positions = out[new], new_positions[new]
        old_positions, old_values = old_positions[1 - new], old_values[1 - new]
    width = positions.shape[0]
    n = width if count is None else int(count)
    wanted = positions[:n].long() + offset
    slot = slots[wanted].long()
    known = (slot >= 0) & (slot < width)
    slot = torch.where(known, slot, 0)
    known &= old_positions[slot].long() == wanted
    found = old_values[slot]
    found[~known], far = _read(source, wanted[~known], slice(None))
    out[:n] = found
    if new_positions is not None:
        new_positions.fill_(-1)
        new_positions[:n] = wanted.int()
        slots[wanted] = torch.arange(n, dtype=torch.int32, device=slots.device)
    counts += torch.tensor([n, int(known.sum()), int(far.sum())], device=counts.device)


def _read(source: SplitValues, wanted: Tensor, heads: slice) -> tuple[Tensor, Tensor]:
    """Values [n, heads, D], and which of them were read from host memory: bool [n]."""
    recent, first, written, blocks, _ = source
    rows = recent.shape[1]
    oldest = int(written) - (rows - first)
    far = (wanted >= first) & (wanted < oldest)
    found = recent[heads][:, recent_rows(wanted, first, rows)].transpose(0, 1)
    if bool(far.any()):
        size = blocks[0].shape[0]
        for i in (wanted[far] // size).unique().tolist():
            there = far & (wanted // size == i)
            part = blocks[i][:, heads].index_select(0, (wanted[there] % size).cpu())
            found[there] = part.to(found.device)
    return found, far

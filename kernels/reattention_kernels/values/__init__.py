"""Values of a cache that are partly in host memory, brought to the device by position:
`fetch_values`."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_kernels.backend import use_triton
from reattention_kernels.values.naive import (
    HeldValues,
    SplitValues,
    fetch_values_naive,
    recent_rows,
)

__all__ = ["HeldValues", "SplitValues", "fetch_values", "fetch_values_naive", "recent_rows"]


def fetch_values(
    source: SplitValues,
    positions: Tensor,
    out: Tensor,
    count: Tensor | None = None,
    offset: int = 0,
    held: HeldValues | None = None,
    programs: int | None = None,
) -> None:
    """Write the values at `positions` into `out`; never waits for the host.

    A kernel reads what is in host memory where it lies (pinned memory has an address on the
    device): one transfer, of what neither the device's part nor the last call has.

    Args:
        source: where the values are; on a GPU, blocks that it can read: in pinned memory.
        positions: integers [1, W] for all heads, or [Hkv, W] for each its own; of several views at
            once [C, 1, W] or [C, Hkv, W].
        out: [W, Hkv, D] or [C, W, Hkv, D], contiguous; rows behind `count` are left as they are.
            With `held.turn` both halves, [2, W, Hkv, D].
        count: int32 [1] or [C], how many positions there are; all where not given.
        offset: added to each position.
        held: what the last call brought, with one row of positions: it is copied from there. For
            several views, whose order is no matter, without `new_positions`.
        programs: at most so many work at a time, so that other work goes on beside it.
    """
    if use_triton(out):
        from reattention_kernels.values.triton import fetch_values_triton

        with torch.cuda.device_of(out):
            fetch_values_triton(source, positions, out, count, offset, held, programs)
        return
    fetch_values_naive(source, positions, out, count, offset, held)

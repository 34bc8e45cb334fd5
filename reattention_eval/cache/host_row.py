"""A row of `HostValues`: its blocks in host memory, and what was brought back last."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from reattention_eval.cache.host_memory import HostBlocks
from reattention_eval.cache.last_fetched import LastFetched
from reattention_eval.cache.value_window import ValueWindow
from reattention_kernels.values import HeldValues, SplitValues, fetch_values, fetch_values_naive


@dataclass
class HostRow:
    """written: tokens there are; kept: tokens that are in host memory, or on their way; oldest: of
    those behind the first ones, the first whose value is on the device."""

    number: int
    blocks: HostBlocks
    last: LastFetched
    written: int = 0
    kept: int = 0
    oldest: int = 0

    def bring(
        self,
        window: ValueWindow,
        positions: Tensor,
        out: Tensor,
        count: Tensor | None = None,
        offset: int = 0,
        held: HeldValues | None = None,
        device_length: Tensor | None = None,
        programs: int | None = None,
    ) -> None:
        """See `reattention_kernels.values.fetch_values`; device_length: of a repeated step."""
        written = self.written if device_length is None else device_length
        source = SplitValues(
            window.tensor[self.number], window.first, written,
            self.blocks.blocks, self.blocks.addresses,
        )  # fmt: skip
        if self.blocks.readable:
            fetch_values(source, positions, out, count, offset, held, programs)
        else:
            fetch_values_naive(source, positions, out, count, offset, held)

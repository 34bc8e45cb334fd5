"""The values of a layer in host memory, but for those that a view needs always."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from reattention_eval.cache.host_memory import HostBlocks
from reattention_eval.cache.host_row import HostRow
from reattention_eval.cache.host_tier import Departures, HostTier, Traffic
from reattention_eval.cache.last_fetched import LastFetched
from reattention_eval.cache.value_window import ValueWindow
from reattention_eval.cache.values import FetchedValues, RowValues
from reattention_kernels.view import ViewValues

LEAVE_TOKENS = 256  # decoded ones wait on the device until they are so many
PROGRAMS = 132  # of a transfer beside other work: with 48 the bus is not full


class HostValues:
    """`DeviceStore` of which a window is on the device: a row's first tokens, and its last as a
    ring. A value that leaves the window is in host memory by then: it is copied there when its
    tokens come, beside what is computed. Where all fit into the window none leaves.

    On a CPU the two places are two storages as well.
    """

    def __init__(self, tier: HostTier) -> None:
        self._tier = tier
        self._rows: list[HostRow] = []
        self._window: ValueWindow | None = None
        self._capacity = 0
        self._out = Departures()

    @property
    def nbytes(self) -> int:
        if self._window is None:
            return 0
        held = self._window.tensor
        return held.numel() * held.element_size() + sum(row.last.nbytes for row in self._rows)

    @property
    def host_bytes(self) -> int:
        return sum(row.blocks.nbytes for row in self._rows)

    def host_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """That so much takes of the host, what is held included."""
        leaves = capacity > self._tier.window
        return rows * self._blocks(like).bytes_of(capacity) if leaves else 0

    def device_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """Of the device: the window alone, since what is brought back follows from the views."""
        token = like.shape[1] * like.shape[3] * like.element_size()
        return rows * min(capacity, self._tier.window) * token

    @property
    def _held(self) -> ValueWindow:
        assert self._window is not None
        return self._window

    @property
    def first(self) -> int:
        """Tokens of a row that always stay."""
        return self._held.first

    @property
    def leaves(self) -> bool:
        """Whether values leave the device, or will."""
        return self._window is not None and self._capacity > self._window.room

    @property
    def _traffic(self) -> Traffic:
        return self._tier.on(self._held.tensor.device)

    # -- storage ---------------------------------------------------------------------------------

    def clear(self) -> None:
        """Hold nothing, and wait until nothing is on its way."""
        if self._window is not None and self._window.tensor.is_cuda:
            torch.cuda.synchronize(self._window.tensor.device)
        for row in self._rows:
            row.blocks.clear()
        self._window, self._rows, self._out = None, [], Departures()

    def make(self, rows: int, capacity: int, like: Tensor) -> None:
        """like: [*, Hkv, *, D]."""
        room = min(capacity, self._tier.window)
        self._window = ValueWindow(rows, room, self._tier.first, like)
        counts, self._traffic.token_bytes = self._traffic.counts, self._window.token_bytes
        self._rows = [HostRow(i, self._blocks(like), LastFetched(counts)) for i in range(rows)]
        self._make_room(capacity)
        self._capacity = capacity

    def grow(self, capacity: int, used: int) -> None:
        """Room for `capacity` tokens; `used` are there."""
        self._wait()  # addresses are written beside this stream, and may move
        if not self.leaves:  # else places have been taken twice
            self._held.grow(min(capacity, self._tier.window), used)
        self._make_room(capacity)
        self._capacity = capacity

    def _blocks(self, like: Tensor) -> HostBlocks:
        return HostBlocks(self._tier.memory, like, self._tier.block_tokens)

    def _make_room(self, capacity: int) -> None:
        if capacity > self._held.room:
            for row in self._rows:
                row.blocks.reserve(capacity)

    # -- tokens come -----------------------------------------------------------------------------

    def write(self, row: int, start: int, value: Tensor) -> None:
        """value [R, Hkv, T, D], of rows that hold `start` tokens each."""
        stop = start + value.shape[2]
        self._wait()  # or what is on its way out would be written over
        for i, tokens in enumerate(value, row):
            at = self._rows[i]
            if self.leaves and (value.shape[2] > 1 or stop - at.kept >= LEAVE_TOKENS):
                pending = at.kept < start
                self._leave(i, stop, tokens)
                if pending:
                    self._wait()
            self._held.write(i, start, tokens)
            at.written, at.oldest = stop, max(at.oldest, self._held.oldest(stop))

    def _leave(self, row: int, stop: int, *last: Tensor) -> None:
        """To the host: what of a row's first `stop` tokens is not there yet. last: [Hkv, T, D], the
        last of them, where they are not in the window."""
        at, start = self._rows[row], stop - sum(tokens.shape[1] for tokens in last)
        with self._out.copying(self._traffic, *last):
            for begin, _, places in self._held.runs(row, at.kept, start):
                at.blocks.write(begin, places)
            for tokens in last:
                at.blocks.write(start, tokens)
        self._traffic.bytes_out += (stop - at.kept) * self._held.token_bytes
        at.kept = stop

    def _settle(self, row: int, stop: int) -> None:
        """The first `stop` tokens are in host memory, for the current stream."""
        if self._rows[row].kept < stop:
            self._leave(row, stop)
        self._wait()

    def _wait(self) -> None:
        """The current stream goes on when all that left is in host memory."""
        self._out.wait(row.blocks for row in self._rows)

    # -- steps that a CUDA graph repeats ---------------------------------------------------------

    def write_repeated(self, row: int, slot: Tensor, value: Tensor) -> None:
        """value [Hkv, 1, D], at the place that `prepare_repeat` set."""
        self._held.tensor[row].index_copy_(1, self._traffic.slot, value)

    def prepare_repeat(self, row: int, length: int) -> None:
        """A step is going to be repeated, behind so many tokens."""
        self._traffic.set_slot(self._held.place(length))
        self._wait()
        if self.leaves:
            self._rows[row].blocks.fill()
            if length - self._rows[row].kept >= LEAVE_TOKENS:
                self._settle(row, length)

    def advance(self, row: int) -> None:
        """It has been."""
        at = self._rows[row]
        at.written += 1
        at.oldest = max(at.oldest, self._held.oldest(at.written))
        at.last.turned(at.written)

    # -- tokens go -------------------------------------------------------------------------------

    def rewind(self, lengths: Sequence[int]) -> None:
        """Nothing is there behind the first lengths[r] tokens of each row: what of the others has
        left the window since comes back."""
        if self._window is None:
            return
        self._traffic.join()
        for i, (row, length) in enumerate(zip(self._rows, lengths, strict=False)):
            if length >= row.written:
                continue
            row.written, row.kept = length, min(row.kept, length)
            row.last.forget(length)
            oldest = self._held.oldest(length)
            if oldest < row.oldest:
                self._wait()
                first, last = max(self.first, oldest), min(row.oldest, length)
                for begin, end, places in self._held.runs(i, first, last):
                    row.blocks.read(begin, end, places)
                    self._traffic.bytes_in += (end - begin) * self._held.token_bytes
            row.oldest = oldest

    # -- reading ---------------------------------------------------------------------------------

    def view(
        self, row: int, rows: int, capacity: int, device_length: Tensor | None = None
    ) -> Tensor | RowValues:
        """Of some rows, one behind the other: [R * Hkv, capacity, D] where nothing has left."""
        if max(capacity, self._rows[row].written) <= self._held.room:
            return self._held.tensor[row : row + rows, :, :capacity].flatten(0, 1)
        return _View(self, row, rows, capacity, device_length)

    def whole(self, row: int, rows: int, length: int) -> Tensor:
        held = self._held.tensor
        out = held.new_empty(rows, held.shape[1], length, held.shape[3])
        for i in range(rows):
            self._settle(row + i, length)
            self._rows[row + i].blocks.read(0, length, out[i])
        self._traffic.bytes_in += rows * length * self._held.token_bytes
        return out.flatten(0, 1)

    def between(self, row: int, start: int, stop: int) -> Tensor:
        held = self._held.tensor
        out = held.new_empty(held.shape[1], stop - start, held.shape[3])
        self._settle(row, stop)
        self._rows[row].blocks.read(start, stop, out)
        return out

    def at(self, row: int, positions: Tensor) -> Tensor:
        self._wait()
        held, of_heads = self._held.tensor, positions if positions.ndim == 2 else positions[None]
        out = held.new_empty(of_heads.shape[1], held.shape[1], held.shape[3])
        self._rows[row].bring(self._held, of_heads, out)
        self._traffic.bytes_in += len(out) * self._held.token_bytes
        return out.transpose(0, 1).contiguous()

    def fetch(
        self,
        row: int,
        spans: Tensor,
        count: Tensor,
        global_size: int,
        device_length: Tensor | None,
        beside: bool,
    ) -> FetchedValues:
        """See `RowValues.fetch`; device_length: of a repeated step."""
        (chunks, width), held, at = spans.shape, self._held.tensor, self._rows[row]
        last = at.last
        window = held[row].expand(chunks, -1, -1, -1)
        if not width:
            nothing = held.new_empty(chunks, held.shape[1], 0, held.shape[3])
            return FetchedValues(ViewValues(window, self.first, nothing))
        _, halves = last.reserve(width, held[row], self._capacity)
        if device_length is not None:
            known = last.repeated(device_length)
            at.bring(self._held, spans, halves, count, global_size, known, device_length)
            return FetchedValues(ViewValues(window, self.first, halves.transpose(1, 2), True))
        traffic, programs = self._traffic, PROGRAMS if beside else None
        values = held.new_empty(chunks, *halves.shape[1:]) if chunks > 1 else None
        with traffic.beside(traffic.fetching) if beside else nullcontext():
            before = last.latest()
            if values is not None:  # in one call, so none of them finds what another one brings
                known = last.known(before, None)
                some = spans[:-1, None], values[:-1], count[:-1]
                at.bring(self._held, *some, global_size, known, programs=programs)
            positions, kept = last.turn()
            known = last.known(before, positions)
            at.bring(
                self._held, spans[-1:], kept, count[-1:], global_size, known, programs=programs
            )
            if values is not None:
                values[-1].copy_(kept)
            ready = traffic.fetching.record_event() if beside and traffic.fetching else None
        values = kept[None] if values is None else values
        return FetchedValues(ViewValues(window, self.first, values.transpose(1, 2)), ready)


@dataclass(frozen=True)
class _View:
    """`RowValues` of some rows, one behind the other; the positions and views are of the first."""

    store: HostValues
    row: int
    rows: int
    capacity: int
    device_length: Tensor | None

    def whole(self) -> Tensor:
        if self.device_length is not None:
            raise RuntimeError("a step that reads all values from the host cannot be repeated")
        return self.store.whole(self.row, self.rows, self.capacity)

    def at(self, positions: Tensor) -> Tensor:
        return self.store.at(self.row, positions)

    def between(self, start: int, stop: int) -> Tensor:
        return self.store.between(self.row, start, stop)

    def fetch(
        self, spans: Tensor, count: Tensor, global_size: int, beside: bool = False
    ) -> FetchedValues:
        if global_size > self.store.first:
            return FetchedValues(self.whole())
        return self.store.fetch(self.row, spans, count, global_size, self.device_length, beside)

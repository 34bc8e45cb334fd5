"""The streams of a cache in host memory, on a CPU: what goes on them runs as late as it may.

A stream's work is put off until something waits for it, in the order of the waits, and holds the
memory that it reads and writes no longer than a device would: `Race` where that is given back by
then. So a wait that is missing is found without a GPU, every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from reattention_eval.cache import host_keys, host_values, last_fetched, value_window, values
from reattention_eval.cache.host_memory import HostBlocks
from reattention_eval.cache.host_row import HostRow
from reattention_eval.cache.host_tier import Traffic
from reattention_kernels.values import HeldValues, SplitValues, fetch_values_naive


class Race(Exception):
    """Memory was given back while a stream used it, or what it reads is not there yet."""


class Late:
    """A tensor that a stream will use: its storage is not held."""

    def __init__(self, tensor: Tensor, what: str) -> None:
        self._storage, self._what = StorageWeakRef(tensor.untyped_storage()), what
        place = tensor.storage_offset(), tensor.shape, tensor.stride()
        self._dtype, self._place = tensor.dtype, place

    def __call__(self) -> Tensor:
        storage = torch.UntypedStorage._new_with_weak_ptr(self._storage.cdata)
        if storage is None:
            raise Race(f"the memory of {self._what} was given back while a stream used it")
        with torch.inference_mode(False):
            return torch.empty(0, dtype=self._dtype).set_(storage, *self._place)


class Stream:
    """As of torch.cuda; None in `current` is the one that everything else runs on, at once."""

    current: ClassVar[Stream | None] = None
    all_of_them: ClassVar[list[Stream]] = []

    def __init__(self) -> None:
        self._work: list[Callable[[], object]] = []
        self._done = 0
        self.held: list[Tensor] = []  # until all is done: `record_stream`
        self.all_of_them.append(self)

    def put_off(self, work: Callable[[], object]) -> None:
        self._work.append(work)

    def run(self, until: int) -> None:
        while self._done < until:
            work = self._work[self._done]
            self._done += 1
            with _on(None):
                work()
        if self._done == len(self._work):
            self.held.clear()

    def record_event(self) -> Callable[[], object]:
        until = len(self._work)
        return lambda: self.run(until)


@contextmanager
def _on(stream: Stream | None) -> Iterator[Stream | None]:
    before, Stream.current = Stream.current, stream
    try:
        yield stream
    finally:
        Stream.current = before


def launch(work: Callable[[], object]) -> None:
    """On the current stream."""
    work() if Stream.current is None else Stream.current.put_off(work)


class Current:
    """What torch.cuda.current_stream gives."""

    def wait_event(self, event: Callable[[], object]) -> None:
        launch(event)

    def wait_stream(self, stream: Stream) -> None:
        launch(stream.record_event())


def run_all(*_: object) -> None:
    for stream in Stream.all_of_them:
        stream.record_event()()


def make_streams_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all caches that are made from here on; unwritten memory is NaN."""
    Stream.all_of_them = []
    patch = monkeypatch.setattr
    make, clears = Traffic.__init__, {c: c.clear for c in (_KEYS, _VALUES)}

    def traffic(self: Any, device: torch.device) -> None:
        make(self, device)
        self.fetching, self.streaming, self.leaving = Stream(), Stream(), Stream()

    patch(Traffic, "__init__", traffic)
    # a stream begins behind what the current one has: that has run already
    patch(Traffic, "beside", lambda self, stream: _on(stream))
    patch(torch.cuda, "current_stream", lambda device=None: Current())
    patch(Tensor, "record_stream", lambda self, stream: stream.held.append(self), raising=False)
    for cls, clear in clears.items():

        def cleared(self: Any, clear: Any = clear) -> None:
            run_all()  # as torch.cuda.synchronize does there
            clear(self)

        patch(cls, "clear", cleared)
    for name in ("_take", "write", "read"):
        patch(HostBlocks, name, globals()[name])
    patch(HostRow, "bring", bring)
    copy = Tensor.copy_

    def copied(self: Tensor, other: Tensor, *args: Any, **options: Any) -> Tensor:
        if Stream.current is None:
            return copy(self, other, *args, **options)
        target, source = Late(self, "a copy"), Late(other, "what is copied")
        launch(lambda: copy(target(), source()))
        return self

    patch(Tensor, "copy_", copied)
    storage = values.storage
    for room in (values, value_window, last_fetched, host_keys):
        patch(room, "storage", lambda shape, like: storage(shape, like).fill_(torch.nan))


_KEYS, _VALUES = host_keys.HostKeys, host_values.HostValues


def _take(self: Any, tokens: int) -> None:
    held = len(self.blocks)
    while len(self.blocks) * self.size < tokens:
        block = self._memory.take((self.size, *self._token), self._dtype, self._device)
        self.blocks.append(block.fill_(torch.nan))
    new = torch.tensor([block.data_ptr() for block in self.blocks[held:]], dtype=torch.int64)
    addresses = Late(self.addresses[held : len(self.blocks)], "addresses")
    if new.numel():
        launch(lambda: addresses().copy_(new))


def write(self: Any, start: int, value: Tensor) -> None:
    stop = start + value.shape[1]
    self._take(stop)
    tokens, parts = Late(value, "values that leave"), self._parts(start, stop)

    def work() -> None:
        for block, first, part in parts:
            here = tokens()[:, first - start : first - start + len(part)]
            block[part.start : part.stop].copy_(here.transpose(0, 1))

    launch(work)


def read(self: Any, start: int, stop: int, out: Tensor) -> None:
    target, parts = Late(out, "what is read into"), self._parts(start, stop)

    def work() -> None:
        for block, first, part in parts:
            here = target()[:, first - start : first - start + len(part)]
            here.copy_(block[part.start : part.stop].transpose(0, 1))

    launch(work)


def bring(
    self: Any,
    window: Any,
    positions: Tensor,
    out: Tensor,
    count: Tensor | None = None,
    offset: int = 0,
    held: HeldValues | None = None,
    device_length: Tensor | None = None,
    programs: int | None = None,
) -> None:
    written = self.written if device_length is None else device_length
    recent, addresses = Late(window.tensor[self.number], "the window"), self.blocks.addresses
    table, wanted, target = (
        Late(addresses, "addresses"),
        Late(positions, "positions"),
        Late(out, "values"),
    )
    number = None if count is None else Late(count, "a count")
    known = held and [None if x is None else Late(x, "what is held") for x in held]
    blocks, first = list(self.blocks.blocks), window.first

    def work() -> None:
        n = None if number is None else number()
        source = SplitValues(recent(), first, written, blocks, table())
        there = [block.data_ptr() for block in blocks]
        at = wanted().long() + offset
        if n is not None:  # of each view its own
            real = torch.arange(at.shape[-1]) < n.view(-1, *[1] * (at.ndim - 1))
            at = at[real.expand_as(at)]
        far = (at >= first) & (at < int(written) - (source.recent.shape[1] - first))
        for i in (at[far] // self.blocks.size).unique().tolist():
            if int(source.addresses[i]) != there[i]:
                raise Race(f"the address of block {i} is not there yet")
        before = known and HeldValues(*(None if x is None else x() for x in known))
        fetch_values_naive(source, wanted(), target(), n, offset, before or None)

    launch(work)

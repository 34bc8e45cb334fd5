"""What the layers of a model share whose values are in host memory."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reattention_eval.cache.host_memory import HostBlocks, HostMemory
from reattention_eval.cache.tiers import VALUES_ON_HOST, group_tokens, window_tokens


class Traffic:
    """Between the host and one device: streams of their own, and what went over them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes_out = 0
        cuda = device.type == "cuda"
        # what is fetched is waited for soon; what leaves is not
        self.fetching = torch.cuda.Stream(device, priority=-1) if cuda else None
        self.streaming = torch.cuda.Stream(device) if cuda else None  # of whole layers
        self.leaving = torch.cuda.Stream(device) if cuda else None
        with torch.inference_mode(False):  # counted in and outside inference mode alike
            # as in `HeldValues.counts`
            self.counts = torch.zeros(3, dtype=torch.int64, device=device)
            self._slot = torch.zeros(1, dtype=torch.int64, device=device)
        self.bytes_in = 0  # besides what `counts` counts
        self.token_bytes = 0  # of what it counts; layers have it alike
        self._slot_at = 0

    @property
    def slot(self) -> Tensor:
        """int64 [1]: where a repeated step puts its token; always the same tensor."""
        return self._slot

    def set_slot(self, place: int) -> None:
        """Layers set it alike."""
        if place != self._slot_at:
            self._slot.fill_(place)
            self._slot_at = place

    def join(self) -> None:
        """The current stream waits for what is being fetched, also where nobody asks for it any
        more: its memory may be another's soon."""
        for stream in (self.fetching, self.streaming):
            if stream is not None:
                torch.cuda.current_stream(self.device).wait_stream(stream)

    def beside(
        self, stream: torch.cuda.Stream | None
    ) -> torch.cuda.StreamContext | nullcontext[None]:
        """What is copied inside goes on that stream of these, behind what the current one has now;
        without one, at once."""
        if stream is None:
            return nullcontext()
        stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(stream)


class Departures:
    """What one store has on its way to host memory."""

    def __init__(self) -> None:
        self._last: torch.cuda.Event | None = None
        self._device: torch.device | None = None

    @contextmanager
    def copying(self, traffic: Traffic, *values: Tensor) -> Iterator[None]:
        """What is copied inside, of the store's own memory and of `values`, goes beside the current
        stream's work, behind what it has now."""
        stream = traffic.leaving
        with traffic.beside(stream):
            try:
                yield
            finally:  # also for what left before an error
                if stream is not None:
                    for value in values:  # or their memory would be another's too soon
                        value.record_stream(stream)
                    self._last, self._device = stream.record_event(), traffic.device

    def wait(self, blocks: Iterable[HostBlocks]) -> None:
        """The current stream goes on when all of it is there; the host too where it reads such
        blocks itself."""
        if self._last is None:
            return
        torch.cuda.current_stream(self._device).wait_event(self._last)
        if not all(block.readable for block in blocks):
            self._last.synchronize()
        self._last = None


class Transferred(NamedTuple):
    """Since the counters were reset: bytes to and from host memory; values of selected tokens that
    views asked for, and those of them that the view before had brought already."""

    to_host: int
    from_host: int
    asked: int
    held: int


@dataclass
class HostTier:
    """Settings, host memory and counters of one model's layers.

    Attributes:
        name: "values_on_host", "host" or "auto".
        first: first tokens of a row whose values always stay on the device: at least as many as a
            view has global ones.
        budget: keys that a view has at most; None where views are of all.
        processes: that share the host, each with as many bytes as this one.
        group_tokens: of a row, appended at most between two views.
        window: tokens of a row whose values are on the device, the first ones among them.
        block_tokens: of a block of host memory; None for what is usual.
    """

    first: int
    budget: int | None
    name: str = VALUES_ON_HOST
    processes: int = 1
    group_tokens: int = field(default_factory=group_tokens)
    window: int = 0
    block_tokens: int | None = None
    memory: HostMemory = field(default_factory=HostMemory)
    traffic: dict[torch.device, Traffic] = field(default_factory=dict)
    stages: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.window = self._least = self.window or self.first + window_tokens(self.budget)

    def keep(self, tokens: int) -> None:
        """All values of rows of at most so many tokens stay on the device."""
        self.window = max(self._least, tokens)

    def on(self, device: torch.device) -> Traffic:
        if device not in self.traffic:
            self.traffic[device] = Traffic(device)
        return self.traffic[device]

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is fetched inside is not counted."""
        before = [(traffic, traffic.counts.clone()) for traffic in self.traffic.values()]
        try:
            yield
        finally:
            for traffic, counts in before:
                traffic.counts.copy_(counts)

    def transferred(self) -> Transferred:
        """Waits for the devices."""
        asked, held, out, into = 0, 0, 0, 0
        for traffic in self.traffic.values():
            more_asked, more_held, read = traffic.counts.tolist()
            asked, held = asked + more_asked, held + more_held
            out += traffic.bytes_out
            into += traffic.bytes_in + read * traffic.token_bytes
        return Transferred(out, into, asked, held)

    def reset_counts(self) -> None:
        for traffic in self.traffic.values():
            traffic.counts.zero_()
            traffic.bytes_in = traffic.bytes_out = 0

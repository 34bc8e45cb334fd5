"""The keys of layers in host memory: on the device are those of the layer at work, and those of the
next one are on their way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from reattention_eval.cache.host_memory import HostBlocks
from reattention_eval.cache.host_tier import Departures, HostTier, Traffic
from reattention_eval.cache.values import storage

SLOTS = 2


@dataclass
class _Slot:
    """Room on the device for one layer's keys [B, Hkv, capacity, D].

    valid: of each row, so many of its first tokens are there; ready: when they are.
    """

    tensor: Tensor
    owner: HostKeys | None = None
    valid: list[int] = field(default_factory=list)
    ready: torch.cuda.Event | None = None


class KeyStage:
    """What layers of one device share whose keys are in host memory: slots, and their order."""

    def __init__(self, traffic: Traffic) -> None:
        self.traffic = traffic
        self._slots: list[_Slot] = []  # the one in use is the last
        self._shape: tuple[int, ...] = ()  # of each
        self._members: list[HostKeys] = []  # as a forward goes through them

    def bytes_for(self, keys: HostKeys) -> int:
        """Held on the device: they count once, with the first of the layers."""
        if self._members[:1] != [keys]:
            return 0
        return sum(slot.tensor.numel() * slot.tensor.element_size() for slot in self._slots)

    def leave(self, keys: HostKeys) -> None:
        self._members = [member for member in self._members if member is not keys]
        slot = self._find(keys)
        if slot is not None:  # what it holds is nobody's
            slot.owner = None
        if not self._members:
            self._slots = []

    def make(self, keys: HostKeys, rows: int, capacity: int, like: Tensor) -> None:
        """Slots with that room; what was in others is in host memory too."""
        if keys not in self._members:
            self._members = sorted([*self._members, keys], key=lambda member: member.layer)
        if self._slots and self._shape[0] == rows and self._shape[2] >= capacity:
            return
        self.traffic.join()
        self._slots = []  # given back before as much is taken again
        self._take((rows, like.shape[1], capacity, like.shape[3]), like)

    def _take(self, shape: tuple[int, ...], like: Tensor) -> None:
        self._slots, self._shape = [_Slot(storage(shape, like)) for _ in range(SLOTS)], shape

    def bring(self, keys: HostKeys) -> _Slot:
        """The slot that holds a layer's keys, for the current stream."""
        if not self._slots:  # larger ones had no room
            self._take(self._shape, keys.like)
        slot = self._find(keys) or self._slots[0]
        self._load(slot, keys)
        if slot.ready is not None:
            torch.cuda.current_stream(self.traffic.device).wait_event(slot.ready)
            slot.ready = None
        self._slots.sort(key=lambda other: other is slot)
        return slot

    def ahead(self, keys: HostKeys) -> None:
        """Bring the keys of the layer behind this one, beside the current stream's work."""
        after = self._members[(self._members.index(keys) + 1) % len(self._members)]
        if after is not keys:
            self._load(self._find(after) or self._slots[0], after)

    def forget(self, keys: HostKeys, lengths: Sequence[int]) -> None:
        """Rows of the layer have no more than so many tokens."""
        slot = self._find(keys)
        if slot is not None:
            slot.valid = [min(pair) for pair in zip(slot.valid, lengths, strict=False)]

    def _find(self, keys: HostKeys) -> _Slot | None:
        return next((slot for slot in self._slots if slot.owner is keys), None)

    def _load(self, slot: _Slot, keys: HostKeys) -> None:
        """What is missing in the slot, on a stream of its own."""
        if slot.owner is not keys:
            slot.owner, slot.valid = keys, [0] * len(keys.written)
        if slot.valid == keys.written:
            return
        with self.traffic.beside(self.traffic.streaming):
            keys.wait()
            for row, (first, last) in enumerate(zip(slot.valid, keys.written, strict=True)):
                if first < last:
                    keys.read(row, first, last, slot.tensor[row, :, first:last])
            if self.traffic.streaming is not None:
                slot.ready = self.traffic.streaming.record_event()
        slot.valid = list(keys.written)


class HostKeys:
    """`DeviceStore` whose tokens are in host memory, all of them. What `view` gives is the device's
    memory until another layer is at work."""

    def __init__(self, tier: HostTier, layer: int) -> None:
        self._tier, self.layer = tier, layer
        self.written: list[int] = []
        self._blocks: list[HostBlocks] = []
        self._stage: KeyStage | None = None
        self._out = Departures()
        self._token_bytes = 0

    @property
    def _at(self) -> KeyStage:
        assert self._stage is not None
        return self._stage

    @property
    def nbytes(self) -> int:
        return 0 if self._stage is None else self._stage.bytes_for(self)

    @property
    def host_bytes(self) -> int:
        return sum(blocks.nbytes for blocks in self._blocks)

    def host_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """That so much takes of the host, what is held included."""
        return rows * self._new_blocks(like).bytes_of(capacity)

    def device_bytes_of(self, rows: int, capacity: int, like: Tensor) -> int:
        """None of its own: keys are on the device while their layer is at work."""
        return 0

    def _new_blocks(self, like: Tensor) -> HostBlocks:
        return HostBlocks(self._tier.memory, like, self._tier.block_tokens)

    def clear(self) -> None:
        """Hold nothing, and wait until nothing is on its way."""
        if self._stage is None:
            return
        if self._at.traffic.device.type == "cuda":
            torch.cuda.synchronize(self._at.traffic.device)
        for blocks in self._blocks:
            blocks.clear()
        self._at.leave(self)
        self._blocks, self.written, self._out, self._stage = [], [], Departures(), None

    def make(self, rows: int, capacity: int, like: Tensor) -> None:
        """like: [*, Hkv, *, D]."""
        where = like.device, like.dtype, like.shape[1], like.shape[3]
        stage = self._tier.stages.setdefault(where, KeyStage(self._tier.on(like.device)))
        self._stage = stage
        self._token_bytes = like.shape[1] * like.shape[3] * like.element_size()
        self.written = [0] * rows
        self._blocks = [self._new_blocks(like) for _ in range(rows)]
        self.like = like.new_empty(0, like.shape[1], 0, like.shape[3])
        self.grow(capacity, 0)

    def grow(self, capacity: int, used: int) -> None:
        """Room for `capacity` tokens; `used` are there."""
        # addresses are written beside this stream, and may move; `streaming` may have waited for it
        self._at.traffic.join()
        self.wait()
        for blocks in self._blocks:
            blocks.reserve(capacity)
        self._at.make(self, len(self._blocks), capacity, self.like)

    def write(self, row: int, start: int, value: Tensor) -> None:
        """value [R, Hkv, T, D], of rows that hold `start` tokens each."""
        stage, (rows, _, tokens, _) = self._at, value.shape
        slot, stop = stage.bring(self), start + tokens
        slot.tensor[row : row + rows, :, start:stop] = value
        for lengths in (slot.valid, self.written):
            lengths[row : row + rows] = [stop] * rows
        with self._out.copying(stage.traffic, value):
            for blocks, one in zip(self._blocks[row : row + rows], value, strict=True):
                blocks.write(start, one)
        stage.traffic.bytes_out += rows * tokens * self._token_bytes
        stage.ahead(self)

    def write_repeated(self, row: int, slot: Tensor, value: Tensor) -> None:
        """Raises RuntimeError: which layer's keys are at hand is known on the host."""
        raise RuntimeError("a step whose keys are in host memory cannot be repeated")

    def prepare_repeat(self, row: int, length: int) -> None:
        """As `write_repeated`."""

    def advance(self, row: int) -> None:
        """As `write_repeated`."""

    def rewind(self, lengths: Sequence[int]) -> None:
        """Nothing is there behind the first lengths[r] tokens of each row."""
        if self._stage is not None:
            self.written = [min(pair) for pair in zip(self.written, lengths, strict=False)]
            self._stage.forget(self, lengths)

    def view(
        self, row: int, rows: int, capacity: int, device_length: Tensor | None = None
    ) -> Tensor:
        """Of some rows, one behind the other: [R * Hkv, capacity, D], no copy."""
        held = self._at.bring(self).tensor
        return held[row : row + rows, :, :capacity].flatten(0, 1)

    def wait(self) -> None:
        """The current stream goes on when all that was written is in host memory."""
        self._out.wait(self._blocks)

    def read(self, row: int, start: int, stop: int, out: Tensor) -> None:
        """Tokens start..stop - 1 into out [Hkv, stop - start, D]."""
        self._blocks[row].read(start, stop, out)
        self._at.traffic.bytes_in += (stop - start) * self._token_bytes

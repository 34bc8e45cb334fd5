"""The 8-bit index of a row's middle, as a state beside its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from reattention_eval.cache.row_state import RowState
from reattention_kernels.topk_keys import make_index

if TYPE_CHECKING:
    from reattention_kernels.topk_keys.int8_index import Int8Index


@dataclass(frozen=True)
class Int8Factory:
    """Makes indexes of all keys but a row's first `first` and its last `behind`."""

    first: int
    behind: int

    def __call__(self) -> Int8Keys:
        return Int8Keys(self.first, self.behind)


class Int8Keys(RowState):
    """See `Int8Factory`; the index itself is made when the first keys come."""

    def __init__(self, first: int, behind: int) -> None:
        self._first, self._behind = first, behind
        self._capacity = 0
        self._index: Int8Index | None = None

    @property
    def index(self) -> Int8Index:
        assert self._index is not None
        return self._index

    @property
    def nbytes(self) -> int:
        return 0 if self._index is None else self._index.bytes

    def reserve(self, capacity: int) -> None:
        self._capacity = capacity
        held = self._index
        if held is None or held.keys.shape[2] >= capacity - self._first:
            return
        self._index = grown = self._empty(held.matrix.expand(*held.keys.shape[:2], -1, -1))
        grown.keys[:, :, : held.keys.shape[2]] = held.keys
        grown.blocks[:, : held.blocks.shape[1]] = held.blocks
        grown.largest, grown.size = held.largest, held.size
        grown.mean, grown.rotated_mean = held.mean, held.rotated_mean
        grown.mean_norm, grown.winners, grown.warm = held.mean_norm, held.winners, held.warm

    def append(self, keys: Tensor, start: int) -> None:
        with torch.cuda.device_of(keys):  # kernels start on the current GPU
            self._made(keys).update(keys[None, :, self._first : keys.shape[1] - self._behind])

    def append_repeated(self, keys: Tensor, device_length: Tensor) -> None:
        middle = keys[None, :, self._first : keys.shape[1] - self._behind]
        with torch.cuda.device_of(keys):
            self._made(keys).update(middle, device_length - (self._first + self._behind))

    def rewind(self, length: int) -> None:
        if self._index is not None:
            self._index.forget(max(0, length - self._first - self._behind))

    def advance(self) -> None:
        self.index.size += 1

    def _made(self, keys: Tensor) -> Int8Index:
        if self._index is None:
            self._index = self._empty(keys[None])
        return self._index

    def _empty(self, like: Tensor) -> Int8Index:
        return make_index(like, self._capacity - self._first)

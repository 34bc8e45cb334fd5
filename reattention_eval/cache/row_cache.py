"""One row's part of a layer, as methods and attention see it."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from reattention_eval.cache.alike import Alike, Made
from reattention_eval.cache.row_state import Factory, Kept, State
from reattention_eval.cache.values import FetchedValues, RowValues
from reattention_kernels.view import view_rows, view_values

JoinHeads = Callable[[Tensor, int], Tensor]  # (this process's heads, their dim) -> all heads


@dataclass(frozen=True)
class RowCache:
    """One row's part of a layer: views into the storage, not copies.

    key, value: [Hkv, capacity, D], in the order the tokens came; row r of a batch sees only its
    own. Ordinarily they end with the row's last token, and `capacity` is `length`.
    values: as `value`; or what brings them from where they are. To ask for `value` is to bring all.
    join_heads: set where other processes hold the rest of the layer's heads.
    depth: the layer's place among those that a method answers, from 0, and how many these are.
    alike: what layers ask alike, where they are answered one behind the other.
    device_length: int32 [1], only so many of the tokens exist; set in a step whose length only the
    device knows, which a CUDA graph repeats while the cache grows. int32 [C] for C chunks that are
    answered together: so many exist for each of them.
    """

    key: Tensor
    values: Tensor | RowValues
    join_heads: JoinHeads | None = None
    device_length: Tensor | None = None
    layer: int = 0
    states: Callable[[Factory[Any]], Any] | None = None
    depth: tuple[int, int] = (0, 1)
    alike: Alike | None = None

    @cached_property
    def value(self) -> Tensor:
        return self.values if isinstance(self.values, Tensor) else self.values.whole()

    @property
    def capacity(self) -> int:
        """Tokens that key and value have room for."""
        return self.key.shape[1]

    @property
    def length(self) -> int:
        """How many tokens there are; waits for the device where only it knows. Not for several
        chunks, of which each has a length of its own."""
        return self.capacity if self.device_length is None else int(self.device_length)

    def state(self, factory: Factory[State]) -> State:
        """What a method keeps beside this layer's keys of this row, up to date.

        factory: makes it, without arguments (a subclass of `RowState` does); an equal one finds
        the same state again. It is rewound with the cache and counted in its bytes.
        """
        if self.states is None:  # outside a cache: made for this question
            made = Kept(factory())
            made.state.reserve(self.capacity)
            made.catch_up(self.key)
            return made.state  # type: ignore[return-value]
        return self.states(factory)  # type: ignore[no-any-return]

    def for_all_layers(self, what: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once for as long as layers ask for it one behind the other.

        what: all that it depends on, but the device and the mode of inference. It is not written
        into.
        """
        if self.alike is None:
            return make()
        return self.alike((what, self.key.device, torch.is_inference_mode_enabled()), make)

    def all_heads(self, x: Tensor, dim: int) -> Tensor:
        """What was computed for the heads held here -> the same for all heads, in their order."""
        return x if self.join_heads is None else self.join_heads(x, dim)

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Key and value at `positions`: two [Hkv, n, D] copies.

        positions: int64 [n] for all heads, or [Hkv, n] for each KV head its own.
        """
        key = _at(self.key, positions)
        if isinstance(self.values, Tensor):
            return key, _at(self.values, positions)
        return key, self.values.at(positions)

    def gather_view(
        self, spans: Tensor, count: Tensor, global_size: int, local_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [n] of a view of global, selected and local tokens, and copies of their keys
        and values, [Hkv, n, D].

        spans: int32 [1, W], counted from global_size; count: int32 [1]. Waits for the device.
        """
        chosen = int(count[0])
        positions = view_rows(spans[0], chosen, self.length, global_size, local_size)
        fetched = self.fetch(spans, count, global_size).wait()
        if isinstance(fetched, Tensor):
            return positions, _at(self.key, positions), _at(fetched, positions)
        value = view_values(fetched, 0, positions, chosen, self.length, global_size)
        return positions, _at(self.key, positions), value

    def fetch(
        self, spans: Tensor, count: Tensor, global_size: int, beside: bool = False
    ) -> FetchedValues:
        """Start to bring the values of views to the device, where they are not all there: see
        `RowValues.fetch`. All of them where KV heads have views of their own."""
        if isinstance(self.values, Tensor) or count.ndim > 1:
            return FetchedValues(self.value)
        return self.values.fetch(spans, count, global_size, beside)

    def between(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Key and value of tokens start..stop - 1."""
        key = self.key[:, start:stop]
        if isinstance(self.values, Tensor):
            return key, self.values[:, start:stop]
        return key, self.values.between(start, stop)


def _at(x: Tensor, positions: Tensor) -> Tensor:
    """x [Hkv, N, D] at positions [n] or [Hkv, n]: a copy [Hkv, n, D]."""
    if positions.ndim == 1:
        return x.index_select(1, positions)
    return x.take_along_dim(positions[..., None], 1)

"""Views attended without waiting for the host: kernels gather, rotate and attend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reattention_eval.attention.attend import FLASH_DTYPES
from reattention_eval.attention.policy import Selection
from reattention_eval.attention.rope import ViewRope
from reattention_eval.cache import RowCache
from reattention_kernels.backend import use_triton
from reattention_kernels.view import SelectedView, attend_view

LEAST_PLACES = 4095


class FusedViewAttention:
    """Answers selections on CUDA, and decode steps over a whole cache; counts the keys attended to
    where their number is known."""

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}
        self._fixed = 0
        self._places: dict[torch.device, Tensor] = {}  # int32 [1, W], 0..W-1

    @property
    def view_tokens(self) -> int:
        """Keys attended since `reset_counter`; waits for the device."""
        return self._fixed + sum(int(count) for count in self._counts.values())

    def counts(self) -> tuple[int, dict[torch.device, Tensor]]:
        """What `view_tokens` adds up, as it is now, without waiting for the device."""
        return self._fixed, {on: count.clone() for on, count in self._counts.items()}

    def reset_counter(self) -> None:
        for count in self._counts.values():
            count.zero_()  # in place: captured graphs add to it
        self._fixed = 0

    def count_fixed(self, tokens: int) -> None:
        """Keys that a repeated step attended besides those counted on the device."""
        self._fixed += tokens

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is attended inside is not counted."""
        fixed, before = self.counts()
        yield
        self._fixed = fixed
        for on, count in self._counts.items():
            count.copy_(before[on]) if on in before else count.zero_()

    def _counter(self, device: torch.device) -> Tensor:
        if device not in self._counts:
            with torch.inference_mode(False):  # counted in and outside inference mode alike
                self._counts[device] = torch.zeros(1, dtype=torch.int64, device=device)
        return self._counts[device]

    def attend(
        self, rope: ViewRope, view: Selection, row: RowCache, query: Tensor, scale: float
    ) -> Tensor | None:
        """query [H, T, D] -> [H, T, D]; None where the kernels do not take the call."""
        if query.dtype not in FLASH_DTYPES or not use_triton(query):
            return None
        fixed = view.global_size + view.local_size
        tables = rope.device_tables(fixed, fixed + view.spans.shape[1], query)
        if tables is None:
            return None
        self._fixed += fixed
        self._counter(query.device).add_(view.count)
        return _attend(view, row, query, tables, scale)

    def attend_all(
        self, rope: ViewRope, row: RowCache, query: Tensor, scale: float, prompt: int
    ) -> Tensor | None:
        """A decode step over all that the row holds, renumbered: query [H, 1, D] -> [H, 1, D].

        prompt: the frequencies are at least those of so many tokens. None as for `attend`, and for
        more than one query.
        """
        if query.shape[1] != 1 or query.dtype not in FLASH_DTYPES or not use_triton(query):
            return None
        tables = rope.device_tables(row.capacity, row.capacity, query, prompt)
        if tables is None:
            return None
        # every token but the new one is chosen, so that a repeated step finds how many there are
        if row.device_length is None:
            chosen = query.new_full((1,), row.length - 1, dtype=torch.int32)
        else:
            chosen = row.device_length - 1
        view = Selection(self._all_places(row.capacity, query.device), chosen, 0, 1)
        return _attend(view, row, query, tables, scale)

    def held_places(self) -> list[Tensor]:
        """The tables of `attend_all` made last, one a device."""
        return list(self._places.values())

    def _all_places(self, tokens: int, device: torch.device) -> Tensor:
        held = self._places.get(device)
        if held is None or held.shape[1] < tokens:
            size = 1 << max(LEAST_PLACES, tokens - 1).bit_length()
            with torch.inference_mode(False):
                held = torch.arange(size, dtype=torch.int32, device=device)[None]
            self._places[device] = held
        return held


def _attend(
    view: Selection, row: RowCache, query: Tensor, tables: tuple[Tensor, Tensor], scale: float
) -> Tensor:
    return attend_view(
        query[None],
        row.key[None],
        row.value[None],
        SelectedView(view.spans, view.count, *tables, view.global_size, view.local_size),
        scale,
        row.device_length,
    )[0]

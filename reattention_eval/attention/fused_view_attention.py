"""Views attended without waiting for the host: kernels gather, rotate and attend."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from reattention_eval.attention.attend import FLASH_DTYPES
from reattention_eval.attention.counts import PLACES
from reattention_eval.attention.policy import Selection
from reattention_eval.attention.rope import ViewRope
from reattention_eval.cache import FetchedValues, RowCache
from reattention_kernels.backend import use_triton
from reattention_kernels.view import SelectedView, ViewValues, attend_view

LEAST_PLACES = 4095


class FusedViewAttention:
    """Answers selections on CUDA, and decode steps over a whole cache; counts the selected keys,
    whose number only the device knows."""

    def __init__(self) -> None:
        self._counts: dict[torch.device, Tensor] = {}
        self._places: dict[torch.device, Tensor] = {}  # int32 [1, W], 0..W-1

    def counts(self) -> dict[torch.device, Tensor]:
        """int64 [PLACES] on each device: selected keys attended, by the place of their chunk in its
        forward."""
        return {on: count.clone() for on, count in self._counts.items()}

    def set_counts(self, counts: Mapping[torch.device, Tensor]) -> None:
        for on, count in self._counts.items():  # in place: captured graphs add to it
            count.copy_(counts[on]) if on in counts else count.zero_()

    def _counter(self, device: torch.device) -> Tensor:
        if device not in self._counts:
            with torch.inference_mode(False):  # counted in and outside inference mode alike
                self._counts[device] = torch.zeros(PLACES, dtype=torch.int64, device=device)
        return self._counts[device]

    def takes(self, query: Tensor) -> bool:
        """Whether kernels answer queries like these."""
        return query.dtype in FLASH_DTYPES and use_triton(query)

    def tables(
        self, rope: ViewRope, view: Selection, query: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """RoPE tables of the view's places; None where the kernels do not take the call."""
        if not self.takes(query):
            return None
        fixed = view.global_size + view.local_size
        return rope.device_tables(fixed, fixed + view.spans.shape[-1], query)

    def attend(
        self,
        rope: ViewRope,
        view: Selection,
        row: RowCache,
        query: Tensor,
        scale: float,
        place: int,
        out: Tensor | None = None,
        values: FetchedValues | None = None,
    ) -> Tensor | None:
        """query [C, H, T, D] -> [C, H, T, D]; None where the kernels do not take the call.

        C chunks of a row, one behind the other, the first at `place` in its forward; `view` has as
        many rows. out: where to, with any strides but the last. values: the view's, where they were
        asked for already.
        """
        tables = self.tables(rope, view, query)
        if tables is None:
            return None
        counter, end = self._counter(query.device), place + len(query)
        counted = counter[place:end] if end <= PLACES else counter[-1:]
        if view.count.ndim > 1:
            return _attend_by_head(view, row, query, tables, rope.alike, scale, out, counted)
        if values is None:
            values = row.fetch(view.spans, view.count, view.global_size)
        return _attend(view, row, values.wait(), query, tables, rope.alike, scale, out, counted)

    def attend_all(
        self,
        rope: ViewRope,
        row: RowCache,
        query: Tensor,
        scale: float,
        prompt: int,
        out: Tensor | None = None,
    ) -> Tensor | None:
        """A decode step over all that the row holds, renumbered: query [H, 1, D] -> [H, 1, D].

        prompt: the frequencies are at least those of so many tokens. None as for `attend`, and for
        more than one query.
        """
        if query.shape[1] != 1 or not self.takes(query):
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
        into = None if out is None else out[None]
        return _attend(view, row, row.value, query[None], tables, rope.alike, scale, into)[0]

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
    view: Selection,
    row: RowCache,
    value: Tensor | ViewValues,
    query: Tensor,
    tables: tuple[Tensor, Tensor],
    alike: bool,
    scale: float,
    out: Tensor | None = None,
    counted: Tensor | None = None,
) -> Tensor:
    if isinstance(value, Tensor):
        value = value.expand(len(query), *value.shape)
    return attend_view(
        query,
        row.key.expand(len(query), *row.key.shape),
        value,
        SelectedView(view.spans, view.count, *tables, view.global_size, view.local_size, alike),
        scale,
        row.device_length,
        out,
        counted,
    )


def _attend_by_head(
    view: Selection,
    row: RowCache,
    query: Tensor,
    tables: tuple[Tensor, Tensor],
    alike: bool,
    scale: float,
    out: Tensor | None,
    counted: Tensor,
) -> Tensor:
    """As `_attend`, each KV head's view its own: a chunk's heads are entries of one call.

    Counted is their mean, rounded.
    """
    heads = view.count.shape[1]
    mean = (view.count.sum(1) + heads // 2) // heads
    counted += mean if len(counted) > 1 else mean.sum()
    out = torch.empty_like(query) if out is None else out
    for chunk in range(len(query)):
        known = row.device_length
        length = known[chunk : chunk + 1] if known is not None and len(known) > 1 else known
        spans, count = view.spans[chunk], view.count[chunk]
        attend_view(
            query[chunk].unflatten(0, (heads, -1)),
            row.key[:, None],
            row.value[:, None],
            SelectedView(spans, count, *tables, view.global_size, view.local_size, alike),
            scale,
            length,
            out[chunk].unflatten(0, (heads, -1)),
        )
    return out

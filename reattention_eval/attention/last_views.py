"""What each layer attended to at last, kept while somebody watches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reattention_eval.attention.banded_view import BandedView
from reattention_eval.attention.policy import Selection, View

Kept = View | Selection | BandedView


class LastViews:
    """The view of each layer's last chunk of row 0; nothing is kept outside of `watching`."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[Kept, int]] | None = None

    @property
    def watched(self) -> bool:
        return self._kept is not None

    @contextmanager
    def watching(self) -> Iterator[LastViews]:
        """Keeps views inside; they can be read until the next time."""
        noted = LastViews()
        self._kept = noted._kept = {}
        try:
            yield noted
        finally:
            self._kept = None

    def note(self, layer: int, row: int, view: object, length: int) -> None:
        """A chunk that ends at `length` tokens has this view; of several chunks, the last one."""
        if self._kept is None or row or not isinstance(view, (View, Selection, BandedView)):
            return
        if isinstance(view, Selection):  # its tensors may be used again, and nothing waits for them
            spans, count = view.spans[-1:].clone(), view.count[-1:].clone()
            view = Selection(spans, count, view.global_size, view.local_size)
        self._kept[layer] = view, length

    def spans(self, layers: int) -> list[list[int]]:
        """[start, end, start, end, ...] of the positions that each of `layers` layers attended to
        (of any KV head), ends not included; empty where a layer attended to all it had."""
        return [
            _spans(_positions(*self._kept[layer])) if self._kept and layer in self._kept else []
            for layer in range(layers)
        ]


def _positions(view: Kept, length: int) -> Tensor:
    """Ascending, each once, on the CPU."""
    if isinstance(view, Selection):
        found = view.positions(length)
    elif isinstance(view, BandedView):
        found = torch.cat([band.positions for band in view.bands])
    else:
        found = view.positions.flatten()
    return found.cpu().unique()


def _spans(positions: Tensor) -> list[int]:
    cuts = (positions.diff() > 1).nonzero().flatten() + 1
    return [
        end for part in positions.tensor_split(cuts) for end in (int(part[0]), int(part[-1]) + 1)
    ]

"""The range of the keys of each page: what a query's scores there cannot exceed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reattention_eval.cache.row_state import RowState, with_room
from reattention_kernels.topk_keys.products import exact_products


@dataclass(frozen=True)
class PageBoundsFactory:
    """Makes the bounds of pages of `page_size` tokens."""

    page_size: int

    def __call__(self) -> PageBounds:
        return PageBounds(self.page_size)


class PageBounds(RowState):
    """Minimum and maximum of a page's keys in each dimension; of the last page, of those there
    are."""

    def __init__(self, page_size: int) -> None:
        self._size = page_size
        self._room = 0
        self._low: Tensor | None = None  # [Hkv, pages, D]
        self._high: Tensor | None = None

    @property
    def nbytes(self) -> int:
        held = [part for part in (self._low, self._high) if part is not None]
        return sum(part.numel() * part.element_size() for part in held)

    def reserve(self, capacity: int) -> None:
        self._room = max(self._room, -(-capacity // self._size))

    def rewind(self, length: int) -> None:
        """A page that is cut is made again with the next keys."""

    def append(self, keys: Tensor, start: int) -> None:
        heads, length, dim = keys.shape
        self.reserve(length)
        shape = heads, self._room, dim
        self._low = with_room(self._low, keys, shape)
        self._high = with_room(self._high, keys, shape)
        first, whole = start // self._size, length // self._size
        if first < whole:
            pages = keys[:, first * self._size : whole * self._size].unflatten(1, (-1, self._size))
            torch.amin(pages, 2, out=self._low[:, first:whole])
            torch.amax(pages, 2, out=self._high[:, first:whole])
        if length % self._size:
            rest = keys[:, whole * self._size :]
            self._low[:, whole], self._high[:, whole] = rest.amin(1), rest.amax(1)

    def highest(self, query: Tensor, pages: int, count: int) -> Tensor:
        """The `count` of the first `pages` pages in which query.key may be the largest.

        query: [H, D] -> int64 [H, count], ascending; of equal ones the earlier.
        """
        assert self._low is not None and self._high is not None
        exact = torch.promote_types(query.dtype, torch.float32)
        chosen = []
        with exact_products(query.dtype):
            for q, low, high in zip(
                query.to(exact).unflatten(0, (len(self._low), -1)),
                self._low[:, :pages],
                self._high[:, :pages],
                strict=True,
            ):  # a KV head at a time: [G, D], twice [pages, D]
                bound = q.clamp(min=0) @ high.to(exact).T + q.clamp(max=0) @ low.to(exact).T
                best = bound.sort(dim=-1, descending=True, stable=True).indices[:, :count]
                chosen.append(best.sort(-1).values)
        return torch.cat(chosen)

"""Views in which RoPE counts a key at another place for near queries than for distant ones."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from reattention_eval.attention.attend_parts import BandMask, JoinedParts
from reattention_eval.attention.rope import Tables, ViewRope
from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError

PART = 32_768  # keys of a band attended in one call


class Band(NamedTuple):
    """Keys counted alike: query t sees those at positions first[t] <= position < stop[t].

    positions: int64 [n], ascending, n >= 1.
    places, query_places: int64 [n] and [T], not negative: where RoPE counts keys and queries.
    first, stop: int64 [T], of each query its own; they may lie outside of the positions.
    mask: what first and stop say, of a band whose places and mask are the same tensors for all
        layers, as `RowCache.for_all_layers` gives them: what follows from them is made once.
    """

    positions: Tensor
    places: Tensor
    query_places: Tensor
    first: Tensor
    stop: Tensor
    mask: BandMask | None = None


@dataclass(frozen=True)
class BandedView:
    """What a chunk of T tokens attends to, where one `View` cannot say it: places that depend on
    how far the query is, bounds that move with it. One softmax over the keys of all bands.

    Each query sees itself, no later token, and no key in two bands.

    extent: all places are below it.
    keys: that the chunk's last query attends to, for the counters.
    reach: all distances, a query's place less a key's, are below it; RoPE scaling that depends on
        the length takes it for the view's. None: extent.
    """

    bands: tuple[Band, ...]
    extent: int
    keys: int
    reach: int | None = None

    def check(self, name: str, row: RowCache, query: Tensor) -> None:
        """Raise ConfigError, naming the method, for a view that is not as said above.

        Shapes always; values where reading them does not wait for a device.
        """
        problem = self._problem(row.length, query.shape[1])
        if problem:
            raise ConfigError(
                f"{name}: the view of layer {row.layer} {problem} "
                "(see reattention_eval.attention.BandedView)."
            )

    def _problem(self, length: int, tokens: int) -> str | None:
        if not self.bands:
            return "has no bands"
        for band in self.bands:
            n = len(band.positions) if band.positions.ndim == 1 else 0
            shapes = [[n], [n], [tokens], [tokens], [tokens]]
            tensors = band[:5]
            found = [list(part.shape) for part in tensors]
            if n < 1 or found != shapes or any(part.dtype != torch.int64 for part in tensors):
                kinds = ", ".join(f"{part.dtype} {list(part.shape)}" for part in tensors)
                return f"has a band of {kinds}, not int64 [n], [n], [{tokens}] three times"
        if self.bands[0].positions.device.type != "cpu":
            return None
        query = torch.arange(length - tokens, length)
        seen, as_said = torch.zeros(tokens, length, dtype=torch.uint8), True
        for band in self.bands:
            at = band.positions
            if int(at[0]) < 0 or int(at[-1]) >= length or bool((at.diff() <= 0).any()):
                return f"has positions that do not ascend within 0..{length - 1}"
            for part in (band.places, band.query_places):
                if int(part.min()) < 0 or int(part.max()) >= self.extent:
                    return f"has places outside 0..{self.extent - 1}, its extent"
            if bool((band.stop > query + 1).any()):
                return "lets a query see a token after it"
            sees = _seen(band)
            as_said &= band.mask is None or torch.equal(band.mask.seen, sees)
            apart = (band.query_places[:, None] - band.places)[sees]
            if self.reach is not None and bool((apart >= self.reach).any()):
                return f"counts a distance of {int(apart.max())}, and its reach is {self.reach}"
            seen[:, at] += sees
        if bool((seen > 1).any()):
            return "lets a query see a key in two bands"
        if not bool(seen[torch.arange(tokens), query].all()):
            return "does not let every query see itself"
        if int(seen[-1].sum()) != self.keys:
            return f"says {self.keys} keys, and its last query sees {int(seen[-1].sum())}"
        return None if as_said else "has a band whose mask is not what its first and stop say"


def attend_banded(
    rope: ViewRope, view: BandedView, row: RowCache, query: Tensor, scale: float, length: int = 0
) -> Tensor:
    """query [H, T, D], un-rotated, the last tokens of the row -> [H, T, D].

    The frequencies are those of max(view.reach, length) tokens.

    Each band, up to PART keys of it at a time, is an attention of its own, and they are joined by
    the logarithms of their sums: no copy of keys, no mask and no score outgrows a part.
    """
    joined = JoinedParts(query)
    places = view.extent, length, view.reach
    for band in view.bands:
        if band.mask is not None and len(band.positions) <= PART:
            key, value = row.gather(band.positions)
            tables = partial(_tables, rope, row, key, *places)
            q = rope.rotate_by(query, tables(band.query_places))
            key = rope.rotate_by(key, tables(band.places))
            joined.add(q, key, value, scale, band.mask)
            continue
        for start in range(0, len(band.positions), PART):
            keys = slice(start, start + PART)
            part = band._replace(positions=band.positions[keys], places=band.places[keys])
            key, value = row.gather(part.positions)
            q, key = rope.rotate_places(query, key, part.places, part.query_places, *places)
            joined.add(q, key, value, scale, BandMask(_seen(part)))
    return joined.answer().to(query.dtype)


def _tables(
    rope: ViewRope, row: RowCache, like: Tensor, extent: int, length: int, reach: int | None,
    places: Tensor,
) -> Tables:  # fmt: skip
    """Of places that all layers share."""

    def make() -> tuple[Tables, Tensor]:
        return rope.tables_at(places, like, extent, length, reach), places

    # the tensor is kept beside, so that no other one has its number meanwhile
    what = "tables", id(rope), id(places), rope.table_kind(extent, max(reach or extent, length))
    return row.for_all_layers(what, make)[0]


def _seen(band: Band) -> Tensor:
    """bool [T, n]."""
    at = band.positions
    return (at >= band.first[:, None]) & (at < band.stop[:, None])


def shared_band(
    row: RowCache, what: Hashable, positions: Tensor, first: Tensor, stop: Tensor,
    places: Callable[[], tuple[Tensor, Tensor]],
) -> Band:  # fmt: skip
    """A band whose places and mask are those of other layers, or of the chunk before.

    what: all that places and mask depend on; places: those of the keys and of the queries, asked
        for where they are not known yet.
    """

    def make() -> tuple[Tensor, Tensor, BandMask]:
        made = places()
        return *made, BandMask(_seen(Band(positions, *made, first, stop)))

    of_keys, of_queries, mask = row.for_all_layers(what, make)
    return Band(positions, of_keys, of_queries, first, stop, mask)


def last_tokens(row: RowCache, at: Tensor, window: int) -> Band:
    """Of queries at positions `at`, the row's last: the `window` tokens up to each, at their own
    distances."""
    n, t = row.length, len(at)
    before = max(0, n - t - window + 1)
    count, device = n - before, at.device

    def places() -> tuple[Tensor, Tensor]:
        there = torch.arange(count, device=device)
        return there, there[count - t :]

    positions = torch.arange(before, n, device=device)
    what = "last tokens", t, count, window
    return shared_band(row, what, positions, at - window + 1, at + 1, places)

"""Layers answered by the policy's views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from reattention_eval.attention.answer_parts import AnswerParts
from reattention_eval.attention.banded_view import BandedView, attend_banded
from reattention_eval.attention.chunk_groups import ChunkGroup
from reattention_eval.attention.policy import Selection, View, ViewPolicy, ViewsTogether
from reattention_eval.attention.rope import ViewRope
from reattention_eval.attention.whole_answers import WholeAnswers
from reattention_eval.cache import FetchedValues, RowCache
from reattention_eval.errors import ConfigError

GATHERED_BYTES = 256 << 20  # of views answered in one call, keys and values
FETCHING_CALLS = 2  # at least, of a group whose values are fetched while it chooses
# scores of a group's queries, from which on choosing takes the device longer than launching takes
# the host: with fewer, two calls launch for longer than the values of one take
FETCHED_MEANWHILE = 1 << 34


class ViewAnswers:
    """Of one row, whose tokens are in the cache already."""

    def __init__(self, parts: AnswerParts, whole: WholeAnswers) -> None:
        self._parts, self._whole = parts, whole
        self._ends: tuple[object, Tensor] | None = None

    def answer(
        self,
        policy: ViewPolicy,
        layer: int,
        row: int,
        query: Tensor,
        scale: float,
        out: Tensor,
        group: ChunkGroup,
    ) -> None:
        """query [H, T, D] of one row, its tokens in the cache already, into out [H, T, D]."""
        cache = self._parts.caches[layer]
        if (
            isinstance(policy, ViewsTogether)
            and self._parts.fused.takes(query)
            and self._together(policy, layer, row, query, scale, out, group)
        ):
            return
        for place, part, n in group.chunks():
            held = cache.beginning(row, n)
            self.one(policy, layer, row, held, query[:, part], scale, place, out[:, part])

    def _together(
        self,
        policy: ViewsTogether,
        layer: int,
        row: int,
        query: Tensor,
        scale: float,
        out: Tensor,
        group: ChunkGroup,
    ) -> bool:
        """As many chunks a call as their gathered views may take memory; False where the kernels
        decline."""
        cache, size = self._parts.caches[layer], group.chunk_tokens
        one = cache.beginning(row, group.ends[0])
        heads, _, dim = one.key.shape
        view_bytes = 2 * heads * dim * one.key.element_size() * policy.budget
        calls = -(-len(group.ends) // max(1, GATHERED_BYTES // view_bytes))
        scores = len(query) * query.shape[1] * group.ends[-1]
        if cache.group_tokens is not None and scores >= FETCHED_MEANWHILE:
            calls = max(calls, min(FETCHING_CALLS, len(group.ends)))
        chunks = -(-len(group.ends) // calls)
        rope = self._parts.layers[layer].rope
        pending: Callable[[], None] | None = None
        fetched: list[FetchedValues] = []
        try:
            for first in range(0, len(group.ends), chunks):
                ends = group.ends[first : first + chunks]
                part = slice(first * size, (first + len(ends)) * size)
                q, into = (
                    x[:, part].unflatten(1, (-1, size)).transpose(0, 1) for x in (query, out)
                )
                held = cache.beginning(row, ends[-1], self._on_device(ends, query.device))
                view = policy.views(held, q)
                # the same of every call; asked before anything is on its way
                if self._parts.fused.tables(rope, view, q) is None:
                    return False
                self._parts.views.note(layer, row, view, ends[-1])
                place = group.place + first
                values = held.fetch(view.spans, view.count, view.global_size, beside=True)
                fetched.append(values)
                # while they are on their way, what was chosen before is attended to
                if pending:
                    pending()
                del fetched[:-1]
                pending = partial(self._attend, rope, view, held, q, scale, place, into, values)
            if pending:
                pending()
        except BaseException:  # what is on its way keeps its memory until it is there
            for values in fetched:
                values.wait()
            raise
        return True

    def _attend(
        self,
        rope: ViewRope,
        view: Selection,
        held: RowCache,
        query: Tensor,
        scale: float,
        place: int,
        out: Tensor,
        values: FetchedValues,
    ) -> None:
        """Chunks query [C, H, T, D] to their views, counted."""
        answer = self._parts.fused.attend(rope, view, held, query, scale, place, out, values)
        assert answer is not None  # or `out` would hold what was there before
        for i in range(len(query)):
            self._parts.counter.add(place + i, 1, 1, view.global_size + view.local_size)

    def _on_device(self, ends: Sequence[int], device: torch.device) -> Tensor:
        """int32 [C]; the layers of a forward ask alike. Made there, so that nothing waits."""
        if self._ends is None or self._ends[0] != (ends, device):
            step = ends[1] - ends[0] if len(ends) > 1 else 1
            made = torch.arange(ends[0], ends[-1] + 1, step, dtype=torch.int32, device=device)
            self._ends = (ends, device), made
        return self._ends[1]

    def one(
        self,
        policy: ViewPolicy,
        layer: int,
        row: int,
        held: RowCache,
        query: Tensor,
        scale: float,
        place: int,
        out: Tensor,
    ) -> None:
        """query [H, T, D], the last tokens of what is held, into out [H, T, D]."""
        rope, whole = (
            self._parts.layers[layer].rope,
            self._parts.rows.whole(self._parts.rows.prompts[row]),
        )
        view = policy.view(held, query)
        if view is None:  # counted as a step that did not select
            self._parts.counter.add(place, 1, view_tokens=held.capacity)
            self._whole.of_all(layer, held, query, scale, whole, policy.chunk_size, out)
            return
        if self._parts.views.watched:  # its length may wait for the device
            self._parts.views.note(layer, row, view, held.length)
        if isinstance(view, BandedView):
            view.check(policy.name, held, query)
            self._parts.counter.add(place, 1, 1, view.keys)
            out.copy_(attend_banded(rope, view, held, query, scale, whole))
            return
        if isinstance(view, Selection):
            answer = self._parts.fused.attend(
                rope, view, held, query[None], scale, place, out[None]
            )
            if answer is not None:
                self._parts.counter.add(place, 1, 1, view.global_size + view.local_size)
                return
            if view.count.ndim > 1:
                positions = view.of_heads(held.length)
                self._by_head(positions, layer, held, query, scale, whole, place, out)
                return
            places, key, value = held.gather_view(
                view.spans, view.count, view.global_size, view.local_size
            )
            view = View(places)
        elif isinstance(view, View):
            view.check(policy.name, policy.budget, held, query)
            key, value = held.gather(view.positions)
        else:
            raise ConfigError(
                f"{policy.name}: view must give a View, a Selection or a BandedView, found "
                f"{type(view).__name__}."
            )
        self._parts.counter.add(place, 1, 1, key.shape[1])
        if view.places is None or view.query_places is None or view.extent is None:
            query, key = rope.rotate_view(query, key, whole)
        else:
            query, key = rope.rotate_places(
                query, key, view.places, view.query_places, view.extent, whole
            )
        self._parts.attend(query, key, value, scale, out=out)

    def _by_head(
        self,
        positions: list[Tensor],
        layer: int,
        held: RowCache,
        query: Tensor,
        scale: float,
        whole: int,
        place: int,
        out: Tensor,
    ) -> None:
        """As `one`, positions [n] of each KV head its own."""
        heads, longest = len(positions), max(map(len, positions))
        padded = positions[0].new_zeros(heads, longest)
        for row, of_head in zip(padded, positions, strict=True):
            row[: len(of_head)] = of_head
        key, value = held.gather(padded)
        self._parts.counter.add(place, 1, 1, (sum(map(len, positions)) + heads // 2) // heads)
        rope, group = self._parts.layers[layer].rope, len(query) // heads
        for head, of_head in enumerate(positions):
            part, n = slice(head * group, (head + 1) * group), len(of_head)
            q, k = rope.rotate_view(query[part], key[head : head + 1, :n], whole)
            v = value[head : head + 1, :n]
            self._parts.attend(q, k, v, scale, out=out[part])

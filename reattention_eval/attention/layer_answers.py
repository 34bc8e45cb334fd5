"""What answers a layer: its own sliding window, the whole cache, or the policy's view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from reattention_eval.attention.attend import FLASH_DTYPES, ViewAttention
from reattention_eval.attention.chunk_groups import ChunkGroup, group_chunks
from reattention_eval.attention.counts import PLACES, Counts
from reattention_eval.attention.fused_view_attention import FusedViewAttention
from reattention_eval.attention.model_parts import AttentionLayer
from reattention_eval.attention.policy import Selection, View, ViewPolicy, ViewsTogether
from reattention_eval.attention.row_lengths import RowLengths, RowStep
from reattention_eval.attention.sliding_attention import attend_sliding
from reattention_eval.cache import LayerCache, RowCache
from reattention_eval.errors import ConfigError

GATHERED_BYTES = 256 << 20  # of views answered in one call, keys and values


class LayerAnswers:
    """Answers every layer of a model, and counts what the policy answered.

    A row's tokens are answered as chunks, so a forward of any length gives what the same tokens
    give in forwards of one chunk. Chunks that are alike are answered in one call where kernels do.

    `layer_steps`: layer x chunk x row answered; `selected`: those answered by a part of the cache;
    `view_tokens`: keys attended, over all of them.
    """

    def __init__(
        self,
        policy: ViewPolicy,
        layers: Sequence[AttentionLayer],
        caches: Sequence[LayerCache],
        rows: RowLengths,
    ) -> None:
        self.policy = policy
        self._layers, self._caches, self._rows = layers, caches, rows
        self._attend = ViewAttention()
        self._fused = FusedViewAttention()
        self._groups: tuple[object, list[ChunkGroup]] = None, []
        self._ends: tuple[object, Tensor] | None = None
        self.reset_counters()

    # -- counters --------------------------------------------------------------------------------

    def reset_counters(self) -> None:
        self.set_counts(Counts())

    def counts(self) -> Counts:
        """The counters as they are now, without waiting for the device."""
        return Counts(torch.tensor(self._counted), self._fused.counts())

    def set_counts(self, counts: Counts) -> None:
        """Go back to an earlier moment's counters."""
        self._counted: list[list[int]] = counts.host.tolist()
        self._fused.set_counts(counts.on_devices)

    @property
    def layer_steps(self) -> int:
        return sum(self._counted[0])

    @property
    def selected(self) -> int:
        return sum(self._counted[1])

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is answered inside is not counted."""
        before = self.counts()
        try:
            yield
        finally:
            self.set_counts(before)

    def count_repeated(self, layers: int, selecting: int, fixed_view: int) -> None:
        """A repeated step has answered so many layers, so many of them by a part.

        fixed_view: keys a layer attended besides those counted on the device.
        """
        self._count(0, layers, selecting, layers * fixed_view)

    def _count(self, place: int, steps: int, selected: int = 0, view_tokens: int = 0) -> None:
        place = min(place, PLACES - 1)
        for held, more in zip(self._counted, (steps, selected, view_tokens), strict=True):
            held[place] += more

    # -- a layer ---------------------------------------------------------------------------------

    def tables(self) -> list[Tensor]:
        """Tables in use that a captured graph reads."""
        return self._fused.held_places()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, Hkv, T, D], un-rotated -> [B, T, H, D].

        Rows whose chunks end at the same lengths are one call where the view is the whole cache.
        """
        b, h, t, d = query.shape
        plan = self._rows.plan
        padded = len(plan) < b or any(step.count < t for step in plan)
        out = query.new_zeros(b, t, h, d) if padded else query.new_empty(b, t, h, d)
        for first, last in list(self._rows.alike(self._caches[layer].lengths)):
            step = plan[first]
            for group in self._grouped(layer, step):
                part = slice(step.start + group.begin, step.start + group.end)
                q, k, v = (x[first:last, :, part] for x in (query, key, value))
                self._answer(
                    layer, step.row, q, k, v, scale, out[first:last, part].transpose(1, 2), group
                )
        return out

    def _grouped(self, layer: int, step: RowStep) -> list[ChunkGroup]:
        """A row's new chunks; the layers of a forward ask alike."""
        at, cache = self._layers[layer], self._caches[layer]
        repeated, held = cache.repeated, cache.lengths[step.row]
        if repeated is not None:  # the last length that the step serves stands for all
            held = repeated.capacity - step.count
        prompt = self._rows.prompts[step.row]
        whole = prompt if at.window is not None else self._rows.whole(prompt)
        chosen = at.window is None and self.policy.renumbers
        what = at.rope, chosen, whole, held, step.count
        if self._groups[0] != what:
            self._groups = what, group_chunks(
                held, step.count, self.policy.chunk_size,
                self.policy.selects if chosen else lambda length: False,
                lambda length: at.rope.regime(max(length, whole)),
            )  # fmt: skip
        return self._groups[1]

    def _answer(
        self,
        layer: int,
        row: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        out: Tensor,
        group: ChunkGroup,
    ) -> None:
        """query [R, H, T, D] of R rows that hold alike, `row` the first, into out [R, H, T, D]."""
        cache, rows = self._caches[layer], query.shape[0]
        if not group.selects:
            q, k, v = (x.flatten(0, 1) for x in (query, key, value))
            if rows == 1:
                self._by_the_whole(layer, row, q, k, v, scale, group, rows, out[0])
            else:  # their heads lie apart in `out`
                answer = self._by_the_whole(layer, row, q, k, v, scale, group, rows)
                out.copy_(answer.view(out.shape))
            return
        held = cache.append(row, key.flatten(0, 1), value.flatten(0, 1), rows)
        for i in range(rows):
            if cache.repeated is not None:
                self._by_its_view(layer, row, held, query[i], scale, group.place, out[i])
            else:
                self._by_its_views(layer, row + i, query[i], scale, out[i], group)

    # -- by the whole cache ----------------------------------------------------------------------

    def _by_the_whole(
        self,
        layer: int,
        row: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        group: ChunkGroup,
        rows: int,
        out: Tensor | None = None,
    ) -> Tensor:
        """query [R*H, T, D] -> [R*H, T, D]: the rows are so many more KV heads.

        out: where to, with any strides but the last; as in all below.
        """
        at, cache, prompt = self._layers[layer], self._caches[layer], self._rows.prompts[row]
        start, step, size = cache.lengths[row], cache.repeated, self.policy.chunk_size
        if at.window is not None:
            query, key = at.rope.rotate_at(query, key, start, prompt)
            held = cache.append(row, key, value, rows)
            out = torch.empty_like(query) if out is None else out
            for _, part, n in group.chunks(size):
                k, v = held.key[:, :n], held.value[:, :n]
                out[:, part] = attend_sliding(query[:, part], k, v, scale, at.window)
            return out
        for place, _, n in group.chunks(size):
            self._count(place, rows, view_tokens=rows * n)
        whole = self._rows.whole(prompt)
        if not self.policy.renumbers:
            if step is None:
                query, key = at.rope.rotate_at(query, key, start, whole)
            else:
                query, key = at.rope.rotate_slot(query, key, step.slot, step.capacity, whole)
            held = cache.append(row, key, value, rows)
            return self._causal(query, held.key, held.value, scale, held.device_length, out)
        held = cache.append(row, key, value, rows)
        return self._by_all_of(layer, held, query, scale, whole, out)

    def _by_all_of(
        self,
        layer: int,
        held: RowCache,
        query: Tensor,
        scale: float,
        whole: int,
        out: Tensor | None = None,
    ) -> Tensor:
        """All that is held, renumbered, the queries its last tokens: [H, T, D] -> [H, T, D]."""
        rope = self._layers[layer].rope
        answer = self._fused.attend_all(rope, held, query, scale, whole, out)
        if answer is not None:
            return answer
        key, value = held.key[:, : held.length], held.value[:, : held.length]
        query, key = rope.rotate_view(query, key, whole)
        return self._causal(query, key, value, scale, out=out)

    def _causal(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        device_length: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """All queries at once where flash kernels do it; elsewhere a chunk, whose mask is small."""
        t, n = query.shape[1], key.shape[1]
        size = self.policy.chunk_size
        if t <= size or (query.is_cuda and query.dtype in FLASH_DTYPES):
            return self._attend(query, key, value, scale, device_length, out)
        out = torch.empty_like(query) if out is None else out
        for first in range(0, t, size):
            part, end = slice(first, min(first + size, t)), n - t + min(first + size, t)
            q, k, v = query[:, part], key[:, :end], value[:, :end]
            self._attend(q, k, v, scale, out=out[:, part])
        return out

    # -- by the policy's views -------------------------------------------------------------------

    def _by_its_views(
        self, layer: int, row: int, query: Tensor, scale: float, out: Tensor, group: ChunkGroup
    ) -> None:
        """query [H, T, D] of one row, its tokens in the cache already, into out [H, T, D]."""
        cache, size = self._caches[layer], group.tokens // len(group.ends)
        policy = self.policy
        if (
            len(group.ends) > 1
            and isinstance(policy, ViewsTogether)
            and self._fused.takes(query)
            and self._together(policy, layer, row, query, scale, out, group)
        ):
            return
        for place, part, n in group.chunks(size):
            held = cache.beginning(row, n)
            self._by_its_view(layer, row, held, query[:, part], scale, place, out[:, part])

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
        cache, size = self._caches[layer], group.tokens // len(group.ends)
        one = cache.beginning(row, group.ends[0])
        heads, _, dim = one.key.shape
        view_bytes = 2 * heads * dim * one.key.element_size() * policy.budget
        calls = -(-len(group.ends) // max(1, GATHERED_BYTES // view_bytes))
        chunks = -(-len(group.ends) // calls)
        for first in range(0, len(group.ends), chunks):
            ends = group.ends[first : first + chunks]
            part = slice(first * size, (first + len(ends)) * size)
            q, into = (x[:, part].unflatten(1, (-1, size)).transpose(0, 1) for x in (query, out))
            held = cache.beginning(row, ends[-1], self._on_device(ends, query.device))
            view = policy.views(held, q)
            place = group.place + first
            rope = self._layers[layer].rope
            if self._fused.attend(rope, view, held, q, scale, place, into) is None:
                return False
            for i in range(len(ends)):
                self._count(place + i, 1, 1, view.global_size + view.local_size)
        return True

    def _on_device(self, ends: Sequence[int], device: torch.device) -> Tensor:
        """int32 [C]; the layers of a forward ask alike. Made there, so that nothing waits."""
        if self._ends is None or self._ends[0] != (ends, device):
            step = ends[1] - ends[0] if len(ends) > 1 else 1
            made = torch.arange(ends[0], ends[-1] + 1, step, dtype=torch.int32, device=device)
            self._ends = (ends, device), made
        return self._ends[1]

    def _by_its_view(
        self,
        layer: int,
        row: int,
        held: RowCache,
        query: Tensor,
        scale: float,
        place: int,
        out: Tensor,
    ) -> None:
        """query [H, T, D], the last tokens of what is held, into out [H, T, D]."""
        rope, whole = self._layers[layer].rope, self._rows.whole(self._rows.prompts[row])
        view = self.policy.view(held, query)
        if view is None:  # counted as a step that did not select
            self._count(place, 1, view_tokens=held.capacity)
            self._by_all_of(layer, held, query, scale, whole, out)
            return
        if isinstance(view, Selection):
            answer = self._fused.attend(rope, view, held, query[None], scale, place, out[None])
            if answer is not None:
                self._count(place, 1, 1, view.global_size + view.local_size)
                return
            view = View(view.positions(held.length))
        elif isinstance(view, View):
            view.check(self.policy.name, held, query)
        else:
            raise ConfigError(
                f"{self.policy.name}: view must give a View or a Selection, found "
                f"{type(view).__name__}."
            )
        key, value = held.gather(view.positions)
        self._count(place, 1, 1, key.shape[1])
        if view.places is None or view.query_places is None or view.extent is None:
            query, key = rope.rotate_view(query, key, whole)
        else:
            query, key = rope.rotate_places(
                query, key, view.places, view.query_places, view.extent, whole
            )
        self._attend(query, key, value, scale, out=out)

"""What answers a layer: its own sliding window, the whole cache, or the policy's view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from reattention_eval.attention.answer_parts import AnswerParts
from reattention_eval.attention.chosen_answers import ChosenAnswers
from reattention_eval.attention.chunk_groups import ChunkGroup, group_chunks
from reattention_eval.attention.counts import Counts
from reattention_eval.attention.last_views import LastViews
from reattention_eval.attention.model_parts import AttentionLayer
from reattention_eval.attention.policy import ReadsQueries, ViewPolicy
from reattention_eval.attention.row_lengths import RowLengths, RowStep
from reattention_eval.attention.view_answers import ViewAnswers
from reattention_eval.attention.whole_answers import WholeAnswers
from reattention_eval.cache import LayerCache


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
        self._parts = AnswerParts(layers, caches, rows)
        self._whole = WholeAnswers(self._parts)
        self._views = ViewAnswers(self._parts, self._whole)
        self._chosen = ChosenAnswers(self._parts)
        self._groups: tuple[object, list[ChunkGroup]] = None, []

    # -- counters --------------------------------------------------------------------------------

    def reset_counters(self) -> None:
        self.set_counts(Counts())

    def counts(self) -> Counts:
        """The counters as they are now, without waiting for the device."""
        return Counts(self._parts.counter.tensor(), self._parts.fused.counts())

    def set_counts(self, counts: Counts) -> None:
        """Go back to an earlier moment's counters."""
        self._parts.counter.set(counts.host)
        self._parts.fused.set_counts(counts.on_devices)

    @property
    def views(self) -> LastViews:
        """What each layer attended to at last."""
        return self._parts.views

    @property
    def layer_steps(self) -> int:
        return self._parts.counter.layer_steps

    @property
    def selected(self) -> int:
        return self._parts.counter.selected

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
        self._parts.counter.add(0, layers, selecting, layers * fixed_view)

    # -- a layer ---------------------------------------------------------------------------------

    def tables(self) -> list[Tensor]:
        """Tables in use that a captured graph reads."""
        return self._parts.fused.held_places()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, Hkv, T, D], un-rotated -> [B, T, H, D].

        Rows whose chunks end at the same lengths are one call where the view is the whole cache.
        """
        b, h, t, d = query.shape
        plan = self._parts.rows.plan
        padded = len(plan) < b or any(step.count < t for step in plan)
        out = query.new_zeros(b, t, h, d) if padded else query.new_empty(b, t, h, d)
        for first, last in list(self._parts.rows.alike(self._parts.caches[layer].lengths)):
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
        at, cache, rows = self._parts.layers[layer], self._parts.caches[layer], self._parts.rows
        repeated, held = cache.repeated, cache.lengths[step.row]
        if repeated is not None:  # the last length that the step serves stands for all
            held = repeated.capacity - step.count
        prompt = rows.prompts[step.row]
        whole = prompt if at.window is not None else rows.whole(prompt)
        chosen = at.window is None and layer >= self.policy.whole_layers
        most = cache.group_tokens
        what = at.rope, chosen, whole, held, step.count, step.last, rows.read_until[step.row], most
        if self._groups[0] != what:
            self._groups = what, group_chunks(
                held, rows.chunk_ends(step),
                lambda length: chosen and rows.chooses(step.row, length),
                lambda length: at.rope.regime(max(length, whole)), most,
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
        cache, rows = self._parts.caches[layer], query.shape[0]
        if not group.selects:
            q, k, v = (x.flatten(0, 1) for x in (query, key, value))
            if rows == 1:
                self._whole.answer(layer, row, q, k, v, scale, group, self.policy, rows, out[0])
            else:  # their heads lie apart in `out`
                answer = self._whole.answer(layer, row, q, k, v, scale, group, self.policy, rows)
                out.copy_(answer.view(out.shape))
            self._show(layer, row, query, group)
            return
        if not self.policy.renumbers:
            self._chosen.answer(self.policy, layer, row, query, key, value, scale, out, group)
            return
        held = cache.append(row, key.flatten(0, 1), value.flatten(0, 1), rows)
        self._show(layer, row, query, group)
        for i in range(rows):
            if cache.repeated is not None:
                self._views.one(self.policy, layer, row, held, query[i], scale, group.place, out[i])
            else:
                self._views.answer(self.policy, layer, row + i, query[i], scale, out[i], group)

    def _show(self, layer: int, row: int, query: Tensor, group: ChunkGroup) -> None:
        """The chunks to a policy that reads queries; their keys are in the cache."""
        if not isinstance(self.policy, ReadsQueries) or self._parts.layers[layer].window:
            return
        for i, rows_query in enumerate(query):
            for _, part, n in group.chunks():
                held = self._parts.caches[layer].beginning(row + i, n)
                self.policy.read_queries(held, rows_query[:, part])

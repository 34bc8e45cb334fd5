"""What answers a layer: its own sliding window, the whole cache, or the policy's view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from reattention_eval.attention.attend import ViewAttention
from reattention_eval.attention.counts import Counts
from reattention_eval.attention.fused_view_attention import FusedViewAttention
from reattention_eval.attention.model_parts import AttentionLayer
from reattention_eval.attention.policy import Selection, View, ViewPolicy
from reattention_eval.attention.rope import ViewRope
from reattention_eval.attention.row_lengths import RowLengths
from reattention_eval.attention.sliding_attention import attend_sliding
from reattention_eval.cache import LayerCache, RowCache
from reattention_eval.errors import ConfigError


class LayerAnswers:
    """Answers every layer of a model, and counts what the policy answered.

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
        self.reset_counters()

    def reset_counters(self) -> None:
        self.layer_steps = self.selected = self._view_tokens = 0
        self._fused.reset_counter()

    @property
    def view_tokens(self) -> int:
        """Keys attended, over all layer-steps; waits for the device."""
        return self._view_tokens + self._fused.view_tokens

    def counts(self) -> Counts:
        """The counters as they are now, without waiting for the device."""
        host, on_devices = self._fused.counts()
        return Counts(self.layer_steps, self.selected, self._view_tokens + host, on_devices)

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What is answered inside is not counted."""
        before = self.layer_steps, self.selected, self._view_tokens
        try:
            with self._fused.uncounted():
                yield
        finally:
            self.layer_steps, self.selected, self._view_tokens = before

    def count_repeated(self, layers: int, selecting: int, fixed_view: int) -> None:
        """A repeated step has answered so many layers, so many of them by a part.

        fixed_view: keys a layer attended besides those counted on the device.
        """
        self.layer_steps += layers
        self.selected += selecting
        self._fused.count_fixed(layers * fixed_view)

    def tables(self) -> list[Tensor]:
        """Tables in use that a captured graph reads."""
        return self._fused.held_places()

    def __call__(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [B, H, T, D], key and value [B, Hkv, T, D], un-rotated -> [B, T, H, D].

        A row's tokens are answered chunk by chunk, so a forward of any length gives what the
        same tokens give in chunks. Rows whose chunks end at the same length are one call where
        the view is the whole cache.
        """
        b, h, t, d = query.shape
        out = query.new_zeros(b, t, h, d)
        for first, last in self._rows.alike(self._caches[layer].lengths):
            step = self._rows.plan[first]
            stop = step.start + step.count
            for start in range(step.start, stop, self.policy.chunk_size):
                part = slice(start, min(start + self.policy.chunk_size, stop))
                width = last - first if self._whole_view(layer, step.row, part) else 1
                for entry in range(first, last, width):
                    some = slice(entry, entry + width)
                    q, k, v = (x[some, :, part] for x in (query, key, value))
                    answer = self._chunk(layer, self._rows.plan[entry].row, q, k, v, scale)
                    out[some, part] = answer.view(width, h, -1, d).transpose(1, 2)
        return out

    def _whole_view(self, layer: int, row: int, part: slice) -> bool:
        """Whether the chunk's view is known to be all (or the window) of what the row holds."""
        if self._layers[layer].window is not None or not self.policy.renumbers:
            return True
        length = self._caches[layer].lengths[row] + part.stop - part.start
        return not self.policy.selects(length)

    def _chunk(
        self, layer: int, row: int, query: Tensor, key: Tensor, value: Tensor, scale: float
    ) -> Tensor:
        """query [R, H, T, D] of R rows that hold alike, `row` the first -> [R*H, T, D].

        More than one only where `_whole_view`: the rows are then so many more KV heads.
        """
        cache, rope = self._caches[layer], self._layers[layer].rope
        prompt = self._rows.prompts[row]
        rows, window = query.shape[0], self._layers[layer].window
        query, key, value = (x.flatten(0, 1) for x in (query, key, value))
        if window is not None:
            query, key = rope.rotate_at(query, key, cache.lengths[row], prompt)
            held = cache.append(row, key, value, rows)
            return attend_sliding(query, held.key, held.value, scale, window)
        self.layer_steps += rows
        whole = self._rows.whole(prompt)
        if not self.policy.renumbers:
            step = cache.repeated
            if step is None:
                query, key = rope.rotate_at(query, key, cache.lengths[row], whole)
            else:
                query, key = rope.rotate_slot(query, key, step.slot, step.capacity, whole)
            held = cache.append(row, key, value, rows)
            self._view_tokens += rows * held.capacity
            return self._attend(query, held.key, held.value, scale, held.device_length)
        held = cache.append(row, key, value, rows)
        if self.policy.selects(held.capacity):
            answer = self._own_view(rope, held, query, scale, whole)
            if answer is not None:
                self.selected += 1
                return answer
        answer = self._fused.attend_all(rope, held, query, scale, whole)
        if answer is not None:
            self._view_tokens += rows * held.capacity
            return answer
        key, value = held.key[:, : held.length], held.value[:, : held.length]
        self._view_tokens += rows * key.shape[1]
        query, key = rope.rotate_view(query, key, whole)
        return self._attend(query, key, value, scale)

    def _own_view(
        self, rope: ViewRope, row: RowCache, query: Tensor, scale: float, whole: int
    ) -> Tensor | None:
        """query [H, T, D] -> [H, T, D]; None where the policy has no view after all."""
        view = self.policy.view(row, query)
        if view is None:
            return None
        if isinstance(view, Selection):
            answer = self._fused.attend(rope, view, row, query, scale)
            if answer is not None:
                return answer
            view = View(view.positions(row.length))
        elif isinstance(view, View):
            view.check(self.policy.name, row, query)
        else:
            raise ConfigError(
                f"{self.policy.name}: view must give a View or a Selection, found "
                f"{type(view).__name__}."
            )
        key, value = row.gather(view.positions)
        self._view_tokens += key.shape[1]
        if view.places is None or view.query_places is None or view.extent is None:
            query, key = rope.rotate_view(query, key, whole)
        else:
            query, key = rope.rotate_places(
                query, key, view.places, view.query_places, view.extent, whole
            )
        return self._attend(query, key, value, scale)

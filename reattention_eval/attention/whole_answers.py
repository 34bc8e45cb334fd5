"""Layers answered by all that the cache holds, or by their own sliding window."""

from __future__ import annotations

import torch
from torch import Tensor

from reattention_eval.attention.answer_parts import AnswerParts
from reattention_eval.attention.attend import FLASH_DTYPES
from reattention_eval.attention.chunk_groups import ChunkGroup
from reattention_eval.attention.policy import ViewPolicy
from reattention_eval.attention.sliding_attention import attend_sliding
from reattention_eval.cache import RowCache


class WholeAnswers:
    """Of the chunks of a group at once."""

    def __init__(self, parts: AnswerParts) -> None:
        self._parts = parts

    def answer(
        self,
        layer: int,
        row: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        group: ChunkGroup,
        policy: ViewPolicy,
        rows: int,
        out: Tensor | None = None,
    ) -> Tensor:
        """query [R*H, T, D] -> [R*H, T, D]: the rows are so many more KV heads.

        out: where to, with any strides but the last; as in all below.
        """
        at, cache, prompt = (
            self._parts.layers[layer],
            self._parts.caches[layer],
            self._parts.rows.prompts[row],
        )
        start, step, size = cache.lengths[row], cache.repeated, policy.chunk_size
        if at.window is not None:
            query, key = at.rope.rotate_at(query, key, start, prompt)
            held = cache.append(row, key, value, rows)
            out = torch.empty_like(query) if out is None else out
            for _, part, n in group.chunks():
                k, v = held.key[:, :n], held.value[:, :n]
                out[:, part] = attend_sliding(query[:, part], k, v, scale, at.window)
            return out
        for place, _, n in group.chunks():
            self._parts.counter.add(place, rows, view_tokens=rows * n)
        whole = self._parts.rows.whole(prompt)
        if not policy.renumbers:
            if step is None:
                query, key = at.rope.rotate_at(query, key, start, whole)
            else:
                query, key = at.rope.rotate_slot(query, key, step.slot, step.capacity, whole)
            held = cache.append(row, key, value, rows)
            return self._causal(query, held.key, held.value, scale, size, held.device_length, out)
        held = cache.append(row, key, value, rows)
        return self.of_all(layer, held, query, scale, whole, size, out)

    def of_all(
        self,
        layer: int,
        held: RowCache,
        query: Tensor,
        scale: float,
        whole: int,
        chunk_size: int,
        out: Tensor | None = None,
    ) -> Tensor:
        """All that is held, renumbered, the queries its last tokens: [H, T, D] -> [H, T, D].

        whole: the length whose RoPE frequencies count where they depend on it.
        """
        rope = self._parts.layers[layer].rope
        answer = self._parts.fused.attend_all(rope, held, query, scale, whole, out)
        if answer is not None:
            return answer
        key, value = held.key[:, : held.length], held.value[:, : held.length]
        query, key = rope.rotate_view(query, key, whole)
        return self._causal(query, key, value, scale, chunk_size, out=out)

    def _causal(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        size: int,
        device_length: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """All chunks at once where flash kernels do it; elsewhere `size`, whose mask is small.

        A prompt's last chunk that is shorter is a call of its own, as it is where forwards carry
        fewer chunks: few queries are another kernel's.
        """
        t, n = query.shape[1], key.shape[1]
        if t <= size:
            return self._parts.attend(query, key, value, scale, device_length, out)
        flash = query.is_cuda and query.dtype in FLASH_DTYPES
        out = torch.empty_like(query) if out is None else out
        step = t - t % size if flash else size
        for first in range(0, t, step):
            part, end = slice(first, min(first + step, t)), n - t + min(first + step, t)
            q, k, v = query[:, part], key[:, :end], value[:, :end]
            self._parts.attend(q, k, v, scale, out=out[:, part])
        return out

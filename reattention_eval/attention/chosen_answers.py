"""Layers answered by keys that are chosen for each query head, at their own positions."""

from __future__ import annotations

from torch import Tensor

from reattention_eval.attention.answer_parts import AnswerParts
from reattention_eval.attention.chosen_keys import (
    PositionsView,
    ScoredView,
    attend_scored,
    gathered,
)
from reattention_eval.attention.chunk_groups import ChunkGroup
from reattention_eval.attention.policy import ViewPolicy
from reattention_eval.errors import ConfigError


class ChosenAnswers:
    """Of rows that hold alike, in which every chunk of a group is answered by a part."""

    def __init__(self, parts: AnswerParts) -> None:
        self._parts = parts

    def answer(
        self,
        policy: ViewPolicy,
        layer: int,
        row: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float,
        out: Tensor,
        group: ChunkGroup,
    ) -> None:
        """query [R, H, T, D] of R rows, `row` the first, into out [R, H, T, D]; key and value
        [R, Hkv, T, D] are new, all un-rotated."""
        at, cache, rows = self._parts.layers[layer], self._parts.caches[layer], len(query)
        start, lengths = cache.lengths[row], self._parts.rows
        whole = lengths.whole(lengths.prompts[row])
        rotated, key = at.rope.rotate_at(query.flatten(0, 1), key.flatten(0, 1), start, whole)
        cache.append(row, key, value.flatten(0, 1), rows)
        for i, (q, into) in enumerate(zip(rotated.unflatten(0, (rows, -1)), out, strict=True)):
            for place, part, _ in group.chunks():
                # what is decoded is asked for token by token, though it comes together
                size = 1 if policy.reads_whole else group.chunk_tokens
                for first in range(part.start, part.stop, size):
                    some = slice(first, first + size)
                    keys = self._one(
                        policy, layer, row + i, start + some.stop, q[:, some], scale, into[:, some]
                    )
                self._parts.counter.add(place, 1, keys is not None, keys or start + part.stop)

    def _one(
        self,
        policy: ViewPolicy,
        layer: int,
        row: int,
        length: int,
        query: Tensor,
        scale: float,
        out: Tensor,
    ) -> int | None:
        """query [H, T, D], the last of the row's first `length` tokens, into out [H, T, D].

        Returns:
            keys that the last query attended to, a mean over the heads; None for the whole cache.
        """
        held = self._parts.caches[layer].beginning(row, length)
        view = policy.view(held, query)
        if view is None:
            self._parts.attend(query, held.key, held.value, scale, out=out)
            return None
        if isinstance(view, ScoredView):
            _, attended = attend_scored(query, held, scale, view.keep, out)
            return round(float(attended[-1]))
        if isinstance(view, PositionsView):
            view.check(policy.name, held, query)
            key, value = gathered(held, view.positions)
            self._parts.attend(query, key, value, scale, out=out)
            return key.shape[1]
        raise ConfigError(
            f"{policy.name}: a method that keeps the keys' positions (renumbers is False) gives a "
            f"PositionsView or a ScoredView, found {type(view).__name__}."
        )

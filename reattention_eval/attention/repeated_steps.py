"""Decode steps of row 0 that are the same work again and again, as one captured graph is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from reattention_eval.attention.attend import FLASH_DTYPES
from reattention_eval.attention.layer_answers import LayerAnswers
from reattention_eval.attention.rope import ViewRope
from reattention_eval.attention.row_lengths import RowLengths
from reattention_eval.cache import HostTier, LayerCache, RepeatedStep


class RepeatedSteps:
    """What a hook's parts do when a step is repeated: nothing of it is known to its layers.

    Args:
        layers: caches of all of the model's layers.
        answers, rows: of the hook.
        ropes: of the layers.
        devices: of the weights.
        answered: how many layers the policy answers, and for how many of them it chooses.

    Attributes:
        expected: layer-steps that had to select, of the steps counted.
    """

    def __init__(
        self,
        layers: Sequence[LayerCache],
        tier: HostTier | None,
        answers: LayerAnswers,
        rows: RowLengths,
        ropes: Sequence[ViewRope],
        devices: Collection[torch.device],
        answered: tuple[int, int],
    ) -> None:
        self._layers, self._tier, self._answers, self._rows = layers, tier, answers, rows
        self._ropes, self._devices = ropes, set(devices)
        self._answered, self._choosing = answered
        self.expected = 0

    @property
    def possible(self) -> bool:
        """Whether a decode step is the same work at every length: all layers answered by the
        policy, all weights and keys on one device, keys of a dtype that kernels attend in (weights
        may be of another: packed ones are integers), no keys or values fetched at every step,
        nobody who watches the views. False before the first keys."""
        if self._answers.views.watched:
            return False
        if self._answered < len(self._layers) or any(x.keys_on_host for x in self._layers):
            return False
        if self._tier is not None and self._tier.budget is None:
            return False  # all values are fetched at every step
        first = self._layers[0]
        return self._devices == {first.device} and first.dtype in FLASH_DTYPES

    def frequencies(self, length: int) -> tuple[int, ...]:
        """What tells apart the RoPE frequencies that row 0 has at its positions as it grows to
        `length` tokens; a selection counts its own positions, and they stay the same."""
        policy = self._answers.policy
        if policy.renumbers and policy.selects(length):
            return ()
        length = max(length, self._rows.whole(self._rows.prompts[0]))
        return tuple(rope.regime(length) for rope in self._ropes)

    @contextmanager
    def repeating(self, step: RepeatedStep) -> Iterator[None]:
        """Forwards inside put one token of row 0 where the device says, and count nothing."""
        for layer in self._layers:
            layer.repeated = step
        try:
            uncounted = nullcontext() if self._tier is None else self._tier.uncounted()
            with self._answers.uncounted(), uncounted:
                yield
        finally:
            for layer in self._layers:
                layer.repeated = None

    def prepare(self) -> None:
        """Call before a repeated step."""
        for layer in self._layers:
            layer.prepare_repeat(0)

    def count(self, step: RepeatedStep, fixed_view: int) -> None:
        """The step has added a token to row 0; it selects in every layer or in none.

        fixed_view: keys it attended besides those counted on the device.
        """
        self._rows.tokens[0] += 1
        for layer in self._layers:
            layer.advance(0, step)
        selecting = self._choosing * self._rows.chooses(0, self._rows.tokens[0])
        self.expected += selecting
        self._answers.count_repeated(len(self._layers), selecting, fixed_view)

    def tables(self) -> list[Tensor]:
        """Tables in use: a captured graph reads them, so it must keep them alive."""
        rotations = [table for rope in self._ropes for table in rope.held_tables()]
        return [*rotations, *self._answers.tables()]

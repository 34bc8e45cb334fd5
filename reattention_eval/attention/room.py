"""Room in the caches of a hook's layers: asked for before any of it is taken, and made alike in all
of them and in all processes that share the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from reattention_eval.cache import HostTier, LayerCache, place, place_more, require_device
from reattention_eval.cache.layer import GROWTH_TOKENS
from reattention_eval.errors import DeviceMemoryError, HostMemoryError
from reattention_eval.parallel import Ranks


class Room:
    """Every call that asks raises HostMemoryError or DeviceMemoryError where memory is too little,
    with nothing of it taken.

    Args:
        layers: caches of all of the model's layers.
        tier: theirs.
        ranks: of the processes that share the model; None: this one alone.
    """

    def __init__(
        self, layers: Sequence[LayerCache], tier: HostTier | None, ranks: Ranks | None
    ) -> None:
        self._layers, self._tier, self._ranks = layers, tier, ranks

    def ask(self, rows: int, capacity: int) -> None:
        """For `rows` rows of `capacity` tokens in place of what is held."""
        with self._agreed(rows, capacity):
            if self._tier is not None:
                place(self._tier, self._layers, rows, capacity)
            require_device(self._layers, rows, capacity)

    def make(self, rows: int, capacity: int) -> None:
        """What was asked for, with nothing in it."""
        if len({layer.room for layer in self._layers}) > 1:  # making it failed half way before
            for layer in self._layers:
                layer.clear()  # or what some hold would be missing to the others
        try:
            for layer in self._layers:
                layer.reserve(rows, capacity)
        except BaseException:
            for layer in self._layers:
                layer.drop(rows)
            raise

    def make_more(self, capacity: int) -> None:
        """Ask for `capacity` tokens a row and make it, keeping what is stored."""
        rows = len(self._layers[0].lengths)
        with self._agreed(rows, capacity):
            if self._tier is not None:
                place_more(self._tier, self._layers, rows, capacity)
            require_device(self._layers, rows, capacity)
        for layer in self._layers:
            layer.reserve_more(capacity)

    def make_some(self, tokens: int) -> None:
        """The same for `tokens` and some behind them, so that it is not asked for at every one; for
        no more than `tokens` where memory ends there."""
        if all(layer.capacity >= tokens for layer in self._layers):
            return
        try:
            self.make_more(tokens + GROWTH_TOKENS)
        except (HostMemoryError, DeviceMemoryError):
            self.make_more(tokens)

    @contextmanager
    def _agreed(self, rows: int, capacity: int) -> Iterator[None]:
        """What is refused inside by one of the processes, all of them refuse: the others would wait
        for it in a forward."""
        refusal: HostMemoryError | DeviceMemoryError | None = None
        try:
            yield
        except (HostMemoryError, DeviceMemoryError) as error:
            refusal = error
        if self._ranks is not None and self._ranks.size > 1:
            own = torch.tensor([refusal is not None], dtype=torch.int64, device=self._ranks.device)
            if bool(self._ranks.join(own, 0).any()) and refusal is None:
                refusal = DeviceMemoryError(
                    f"another process that shares the model has too little memory for {rows} x "
                    f"{capacity:,} tokens (prompt and max_new_tokens): lower max_new_tokens, "
                    "shorten the prompt, or share the model among more processes."
                )
        if refusal is not None:
            raise refusal

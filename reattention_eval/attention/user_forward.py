"""Forwards that do not come from the session: `model(...)` and `model.generate(...)`."""

from __future__ import annotations

import inspect
import time
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention.token_ids import require_finite
from reattention_eval.errors import ConfigError


class UserForwards:
    """Refuses what an attached method would silently do otherwise, and counts the rest.

    Counters: `forwards`; `prefill_tokens` and `decode_tokens` (a forward of one new token for
    rows that hold some), and the seconds of each kind.
    """

    def __init__(self) -> None:
        self.forwards = 0
        self._gradients: bool | None = None  # as they were, of a forward that has not ended
        self.reset_counters()

    def reset_counters(self) -> None:
        self.prefill_tokens = self.decode_tokens = 0
        self.prefill_seconds = self.decode_seconds = 0.0

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the model's own forward, which then has no gradients: the hook's attention has
        none, and what came back around it would be wrong.

        Raises:
            ConfigError: labels, use_cache=False or output_attentions.
        """
        self._decodes: bool | None = None
        self._tokens = 0
        given = named(module, args, kwargs)
        if given.get("labels") is not None:
            raise ConfigError(
                "labels were given, and a model with a method attached has no gradients to train "
                "with; leave the with block to train, use session.answer_nll for likelihoods."
            )
        if given.get("use_cache") is False:
            raise ConfigError(
                "use_cache=False was given, and an attached method chooses among the keys of its "
                "cache: without it, new tokens would be read as a prompt again at every step. "
                "Leave it out, or pass use_cache=True where the checkpoint's settings turn it off."
            )
        if given.get("output_attentions"):
            raise ConfigError(
                "output_attentions was given, and an attached method makes no attention weights; "
                "leave it out."
            )
        if self._gradients is None:
            self._gradients = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        self._start = time.perf_counter()

    def leave(self) -> None:
        """Behind it, whether it went well or not; Ctrl-C comes here when the block ends."""
        if self._gradients is not None:
            torch.set_grad_enabled(self._gradients)
            self._gradients = None

    def carry(self, counts: list[int], held: list[int]) -> None:
        """What the forward brings to rows that hold so many tokens already: it takes the cache."""
        self.forwards += 1
        self._tokens = sum(counts)
        self._decodes = max(counts, default=0) <= 1 and all(held)

    def end(self, output: Any) -> None:
        """Behind the model's own forward.

        Raises:
            NonFiniteLogitsError: a row's last logits are not all numbers.
        """
        logits = getattr(output, "logits", None)
        if isinstance(logits, Tensor) and logits.numel():
            require_finite(logits, "of the forward")  # waits, so that the seconds are the forward's
        kind = "decode" if self._decodes else "prefill"
        seconds = time.perf_counter() - self._start
        for what, amount in (("tokens", self._tokens), ("seconds", seconds)):
            name = f"{kind}_{what}"
            setattr(self, name, getattr(self, name) + amount)


def named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a module's call by the names of its `forward`."""
    if not args:
        return kwargs
    names = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(names, args, strict=False)), **kwargs}


def check_seen(before: Tensor, held: list[int]) -> None:
    """Raise ConfigError unless a mask's columns before the forward's own show all that is held.

    before: [B], how many tokens they show.
    """
    for row, (shown, length) in enumerate(zip(before.tolist(), held, strict=True)):
        if shown != length:
            raise ConfigError(
                f"the attention mask shows {shown} tokens of row {row} before the forward's own, "
                f"and the attached method holds {length}, all of which it may choose; leave the "
                "mask out, or let it begin with a 1 for each of them."
            )


def check_begun(counts: list[int], held: list[int]) -> None:
    """Raise ConfigError where a row has no token yet, so that nothing can be said of it."""
    for row, (count, length) in enumerate(zip(counts, held, strict=True)):
        if not count + length:
            raise ConfigError(
                f"row {row} of the batch is empty: its attention mask shows no token; leave it out."
            )


def check_places(position_ids: Tensor, counts: list[int], held: list[int]) -> None:
    """Raise ConfigError unless they count each row's real tokens on from what it holds."""
    width = position_ids.shape[-1]
    found = position_ids.reshape(-1, width).expand(len(counts), width).tolist()
    for row, (places, count, start) in enumerate(zip(found, counts, held, strict=True)):
        if places[width - count :] != list(range(start, start + count)):
            raise ConfigError(
                f"position_ids of row {row} do not count on from the {start} tokens that the "
                "attached method holds, and a method counts places itself; leave position_ids out."
            )

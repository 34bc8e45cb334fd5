"""What a cell will take of a card, by `plan`'s rates, before any of it is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

from reattention_eval.cache import AUTO, DEVICE
from reattention_eval.cache.tiers import HOST
from reattention_eval.efficiency.cards import Card, card_by_name
from reattention_eval.efficiency.e2e.forms import Form
from reattention_eval.efficiency.plan import BYTES
from reattention_eval.efficiency.rates import Rates, rates_of
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.efficiency.work import (
    prompt_transfers,
    prompt_work,
    step_transfers,
    step_work,
)
from reattention_eval.methods import FullAttention, ReAttention, StreamingLLM
from reattention_eval.methods.forward_size import MOST_TOKENS

WARM_DECODE = 64  # tokens behind a form's first, untimed prompt, at most
WARM_STEPS = 8  # a CUDA graph is captured within them
AROUND = 1.0  # seconds of a run for what is neither prompt nor answer


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        repeats: runs of a cell.
        patience: seconds; once a cell's runs took longer in sum, it gets no further one.
        decode: tokens that are timed behind the prompt; 0 for none.
        warm_up: tokens of each form's first, untimed prompt, at most the length's own.
        until: time of `time.monotonic` at which all is to be done; a run that would take longer,
            by what is expected of it, is left out.
    """

    repeats: int = 3
    patience: float = 60.0
    decode: int = 64
    warm_up: int = 32_768
    until: float | None = None


def ending_in(minutes: float | None) -> float | None:
    """`Effort.until`, from now on."""
    return None if minutes is None else time.monotonic() + 60 * minutes


@dataclass(frozen=True)
class Estimate:
    """For one model's shape on one card; rates None: nothing is known."""

    shape: ModelShape
    itemsize: int
    rates: Rates | None
    card: Card | None = None

    def run_seconds(self, form: Form, tokens: int, decode: int) -> float | None:
        """Of a prompt and `decode` tokens behind it; None where nothing tells."""
        if self.rates is None:
            return None
        method = form.method
        if not isinstance(method, (ReAttention, StreamingLLM)):
            method = FullAttention()  # the most it may be
        prompt = prompt_work(self.shape, method, tokens)
        if isinstance(method, StreamingLLM):
            prompt = replace(prompt, scores=0, rescored=0)
        step = step_work(self.shape, method, tokens, self.itemsize)
        moved = None
        if form.cache not in (DEVICE, AUTO):
            # methods without a budget have as many values brought over as keys
            tier = form.cache if method.budget else HOST
            moving = method if isinstance(method, ReAttention) else ReAttention()
            asked = self.shape, moving, tokens, self.itemsize, tier
            moved = prompt_transfers(*asked, MOST_TOKENS), step_transfers(*asked)
        first, one = self.rates.seconds(prompt, step, moved, self.card)
        return first + (0 if form.whole else decode * one) + AROUND

    def warm_seconds(self, form: Form, tokens: int, effort: Effort) -> float | None:
        """Of the form's first prompt, before those of `tokens` tokens."""
        short = min(effort.warm_up, tokens)
        return self.run_seconds(form, short, min(WARM_DECODE, effort.decode))

    def cell_seconds(self, form: Form, tokens: int, effort: Effort, warm: bool) -> float | None:
        """Of a cell with all its runs, and where `warm`, the form's first prompt."""
        run = self.run_seconds(form, tokens, effort.decode)
        if run is None:
            return None
        runs = min(effort.repeats, max(1, ceil(effort.patience / run)))
        first = self.warm_seconds(form, tokens, effort) if warm else None
        return (first or 0.0) + runs * run


def estimate_of(about: dict[str, Any]) -> Estimate:
    """For the model and the card that a record speaks of."""
    name = about["device"]
    shape = ModelShape(**about["shape"])
    return Estimate(shape, BYTES[about["dtype"]], rates_of(name), card_by_name(name))

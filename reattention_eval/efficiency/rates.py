"""How fast a card does each kind of work: fitted to measured prompts, kept in card_rates.json.

A time is the sum of each kind of work over its rate. `reattention-eval bench rates` makes the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from reattention_eval.efficiency.cards import CARDS, Card, card_by_name
from reattention_eval.efficiency.work import PromptWork, StepWork, Transfers

FILE = Path(__file__).with_name("card_rates.json")


@dataclass(frozen=True)
class Rates:
    """Of one card, in seconds for one of each.

    Attributes:
        prompt: for each part of `PromptWork`: an operation of linear layers, of scores and of
            attention, a rescored query head, a layer of a forward.
        step: for each part of `StepWork`: a byte read, a layer, a layer that selects.
        measured: the records' models, commits and lengths.
        scaled_from: the card that was measured in this one's place.
        moved: a byte from host memory; None: the data sheet's.
        launched: a layer of a step that is launched, since its keys are in host memory, at least.
        awaited: the share of the values that a prompt's views may need from host memory that it
            waits for: the others stayed from the view before, or came beside the GPU's work.
    """

    prompt: tuple[float, ...]
    step: tuple[float, ...]
    measured: str
    scaled_from: str | None = None
    moved: float | None = None
    launched: float = 0.0
    awaited: float = 1.0

    def prompt_seconds(self, work: PromptWork) -> float:
        """Time to the first token."""
        return _sum(self.prompt, work.parts)

    def step_seconds(self, work: StepWork) -> float:
        """Time of one more token, as a CUDA graph."""
        return _sum(self.step, work.parts)

    def seconds(
        self,
        prompt: PromptWork,
        step: StepWork,
        moved: tuple[Transfers, Transfers] | None = None,
        card: Card | None = None,
    ) -> tuple[float, float]:
        """Time to the first token, and of one more; moved: what each of them has moved on `card`
        for a cache that is partly in host memory."""
        first, one = self.prompt_seconds(prompt), self.step_seconds(step)
        if moved is None or card is None:
            return first, one
        if moved[1].meanwhile:  # a step that brings keys over is no graph
            one = max(one, self.launched * step.layers)
        link = self.link(card)
        waits = replace(moved[0], awaited=self.awaited * moved[0].awaited)
        return with_transfers(first, waits, link), with_transfers(one, moved[1], link)

    def link(self, card: Card) -> float:
        """Bytes a second between host memory and `card`."""
        return 1 / self.moved if self.moved else card.link

    def scaled(self, own: Card, other: Card) -> Rates:
        """For a card that was not measured, by the data sheets of both; `own` was."""
        slower, reads = own.flops / other.flops, own.bandwidth / other.bandwidth
        linear, scores, attention, rescored, launched = self.prompt
        by_flops = (linear * slower, scores * slower, attention * slower)
        return replace(
            self,
            prompt=(*by_flops, rescored * slower, launched),
            step=(self.step[0] * reads, *self.step[1:]),
            scaled_from=own.name,
            moved=self.moved and self.moved * own.link / other.link,
        )


def with_transfers(seconds: float, moved: Transfers, link: float) -> float:
    """What `seconds` of work take beside transfers at `link` bytes a second."""
    return max(seconds, moved.meanwhile / link) + moved.awaited / link


def rates_of(name: str) -> Rates | None:
    """Of the card that PyTorch calls `name`: measured, else scaled by data sheets; None where
    neither is possible."""
    held = _held()
    if name in held:
        return held[name]
    other = card_by_name(name)
    own = next((card for card in CARDS.values() if card.name in held), None)
    return held[own.name].scaled(own, other) if own and other else None


def write_rates(rates: Mapping[str, Rates], path: Path = FILE) -> None:
    """Keep measured rates by the card's name."""
    data = {name: asdict(found) for name, found in sorted(rates.items())}
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


@cache
def _held() -> dict[str, Rates]:
    data: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Rates(**{**held, "prompt": tuple(held["prompt"]), "step": tuple(held["step"])})
        for name, held in data.items()
    }


def _sum(rates: Sequence[float], work: Sequence[float]) -> float:
    return sum(seconds * amount for seconds, amount in zip(rates, work, strict=True))

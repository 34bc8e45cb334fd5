"""Rates of a card from records of `bench e2e`, and how far its prompts are from what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reattention_eval.cache.tiers import AUTO, DEVICE, HOST, VALUES_ON_HOST
from reattention_eval.efficiency.cards import card_by_name
from reattention_eval.efficiency.e2e.estimate import WARM_STEPS
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import busy_host, columns, figure_of
from reattention_eval.efficiency.plan import BYTES, Placement, peak_memory, tiers_of
from reattention_eval.efficiency.rates import Rates
from reattention_eval.efficiency.shape import ModelShape
from reattention_eval.efficiency.work import (
    PromptWork,
    StepWork,
    Transfers,
    can_be_timed,
    prompt_transfers,
    prompt_work,
    step_transfers,
    step_work,
)
from reattention_eval.errors import DataError
from reattention_eval.machine_memory import usable
from reattention_eval.methods import Method, ReAttention, build_method

# settings that methods no longer have, and what is done always
_GONE = {"candidates": "16bit"}


@dataclass(frozen=True)
class Measured:
    """One form of a record at one length in one tier: medians over its runs, and the work that they
    were.

    Attributes:
        latest: whether a table of the record shows it.
        text: of what text the prompt is; None of random tokens.
        step_seconds: None where no token was decoded.
        peak_bytes: on the card; planned_bytes: that the plan expects.
        tier: where the cache was, with what was moved for it (None on the device).
    """

    card: str
    model: str
    form: str
    tokens: int
    commit: str
    latest: bool
    prompt: PromptWork
    prompt_seconds: float
    step: StepWork
    step_seconds: float | None
    peak_bytes: int
    cell: dict[str, Any]
    tier: str = DEVICE
    moved: tuple[Transfers, Transfers] | None = None
    planned_bytes: int | None = None
    text: str | None = None

    @property
    def makes_rates(self) -> bool:
        """Whether rates are made of it: none are of transfers nor beside a busy host, and a text's
        prompt would stand beside the random one of the same shape and length under another model's
        name."""
        alone = not busy_host(self.cell)
        return self.latest and self.tier == DEVICE and self.text is None and alone

    @property
    def place(self) -> tuple[str, int]:
        return self.model, self.tokens

    def predicted(self, rates: Rates) -> tuple[float, float]:
        """Seconds to the first token, and of one more."""
        return rates.seconds(self.prompt, self.step, self.moved, card_by_name(self.card))


def measured(record: E2ERecord) -> list[Measured]:
    """What of a record can be timed: methods that `can_be_timed`, on one GPU. Nothing of quantised
    weights: rates are of products in the dtype, and `plan` gives no seconds for others."""
    shape = ModelShape(**record.data["shape"])
    if shape.weight_bits is not None:
        return []
    size = BYTES[record.data["dtype"]]
    shown = [id(cell) for column in columns(record) for cell in column.cells.values()]
    found = []
    for cell in record.data["cells"]:
        seconds, peak = figure_of(cell, "ttft_seconds"), figure_of(cell, "peak_bytes")
        if seconds is None or peak is None or cell["whole"]:
            continue
        tier, method = cell.get("cache", DEVICE), method_of(cell)
        if method is None or not can_be_timed(method) or tier not in (*tiers_of(method), AUTO):
            continue
        away = max(run.get("layers_with_keys_on_host", 0) for run in cell["runs"])
        if tier == AUTO and not away:  # in another tier, and counted there
            continue
        tokens, forward = cell["tokens"], max(run["forward_tokens"] for run in cell["runs"])
        environment = record.data["environments"][cell["environment"]]
        found.append(
            Measured(
                card=record.data["device"],
                model=record.data["model"],
                form=cell["form"],
                tokens=tokens,
                commit=str(environment["commit"])[:7],
                latest=id(cell) in shown,
                prompt=prompt_work(shape, method, tokens, forward),  # type: ignore[arg-type]
                prompt_seconds=seconds,
                step=step_work(shape, method, tokens, size),  # type: ignore[arg-type]
                step_seconds=figure_of(cell, "tpot_seconds"),
                peak_bytes=int(peak),
                cell=cell,
                tier=tier,
                moved=_moved(shape, method, tokens, size, tier, forward, away),
                planned_bytes=None if tier == AUTO else _planned(record, shape, method, cell),
                text=record.data.get("prompt"),
            )
        )
    return found


def _moved(
    shape: ModelShape, method: Method, tokens: int, size: int, tier: str, forward: int, away: int
) -> tuple[Transfers, Transfers] | None:
    """away: layers whose keys are in host memory, of AUTO."""
    if tier == DEVICE or not isinstance(method, ReAttention):
        return None
    tier, share = (HOST, away / shape.layers) if tier == AUTO else (tier, 1.0)
    return (
        prompt_transfers(shape, method, tokens, size, tier, forward, share),
        step_transfers(shape, method, tokens, size, tier, share),
    )


def _planned(
    record: E2ERecord, shape: ModelShape, method: Method, cell: dict[str, Any]
) -> int | None:
    """Bytes that `plan` expects at most; None for a card whose memory it does not know."""
    memory = record.memory
    if memory is None:
        return None
    behind = max(run.get("decode_tokens", 0) for run in cell["runs"])
    if behind:
        behind += WARM_STEPS  # a graph is captured in them
    tokens = cell["tokens"] + behind
    where = Placement(dtype=record.data["dtype"])
    tier = cell.get("cache", DEVICE)
    return peak_memory(shape, method, tokens, where, usable(memory), tier=tier)


def method_of(cell: dict[str, Any]) -> Method | None:
    """What a cell measured; None where there is no such method any more."""
    settings = dict(cell["settings"])
    if any(settings.pop(name, now) != now for name, now in _GONE.items()):
        return None
    return build_method({"type": cell["method"], **settings})


def fit(cells: Sequence[Measured]) -> Rates:
    """The rates under which these cells take what they took: least squares of the relative error.

    Raises:
        DataError: fewer cells than rates.
    """
    steps = [(cell, cell.step_seconds) for cell in cells if cell.step_seconds is not None]
    models = sorted({cell.model for cell in cells})
    commits = sorted({cell.commit for cell in cells})
    lengths = f"{min(c.tokens for c in cells):,} to {max(c.tokens for c in cells):,} tokens"
    return Rates(
        prompt=_solved([c.prompt.parts for c in cells], [c.prompt_seconds for c in cells]),
        step=_solved([c.step.parts for c, _ in steps], [seconds for _, seconds in steps]),
        measured=f"{', '.join(models)}, {lengths}, commits {', '.join(commits)}",
    )


def with_host(rates: Rates, cells: Sequence[Measured]) -> Rates:
    """And what prompts and steps tell whose cache is in host memory, on whatever text."""
    return _with_host_prompts(_with_host_steps(rates, cells), cells)


def _with_host_prompts(rates: Rates, cells: Sequence[Measured]) -> Rates:
    """The share of their views' values that prompts waited for, least squares of the relative
    error; of those whose keys are on the device, where nothing else crosses the link."""
    alone, amounts, found = replace(rates, awaited=0.0), [], []
    for cell in cells:
        card = card_by_name(cell.card)
        if cell.tier != VALUES_ON_HOST or cell.moved is None or card is None:
            continue
        if not cell.moved[0].awaited or busy_host(cell.cell):
            continue
        amounts.append(cell.moved[0].awaited / rates.link(card) / cell.prompt_seconds)
        found.append(-deviation(cell.predicted(alone)[0], cell.prompt_seconds))
    if not found:
        return rates
    share = float(np.dot(amounts, found) / np.dot(amounts, amounts))
    return replace(rates, awaited=_rounded(min(1.0, max(0.0, share))))


def _with_host_steps(rates: Rates, cells: Sequence[Measured]) -> Rates:
    """What steps tell whose keys are in host memory.

    A byte takes what it took in the step that moved most a second; of a step that takes more than
    twice as long the rest is launching.
    """
    steps = [
        (cell.step_seconds, sum(astuple(cell.moved[1])), cell.step.layers)
        for cell in cells
        if cell.moved and cell.moved[1].meanwhile and cell.step_seconds and not busy_host(cell.cell)
    ]
    if not steps:
        return rates
    byte = min(seconds / nbytes for seconds, nbytes, _ in steps)
    launched = [
        seconds / layers for seconds, nbytes, layers in steps if seconds > 2 * byte * nbytes
    ]
    return replace(rates, moved=_rounded(byte), launched=_rounded(min(launched, default=0.0)))


def deviation(predicted: float, found: float) -> float:
    """Of a prediction from what was measured, relative."""
    return predicted / found - 1


def _solved(work: Sequence[tuple[float, ...]], seconds: Sequence[float]) -> tuple[float, ...]:
    """Seconds for one of each kind of work, none of them negative."""
    amounts, times = np.array(work, dtype=np.float64), np.array(seconds, dtype=np.float64)
    if len(times) < amounts.shape[1]:
        raise DataError(
            f"{len(times)} measured prompts cannot tell {amounts.shape[1]} rates; measure more "
            "lengths, with ReAttention and full attention (`reattention-eval bench e2e`)."
        )
    scale = amounts.max(0)
    relative: NDArray[np.float64] = amounts / scale / times[:, None]
    used = list(range(amounts.shape[1]))
    rates = np.zeros(amounts.shape[1])
    while used:
        part = np.linalg.lstsq(relative[:, used], np.ones(len(times)), rcond=None)[0]
        if part.min() >= 0:
            rates[used] = part / scale[used]
            break
        del used[int(part.argmin())]
    return tuple(map(_rounded, rates))


def _rounded(rate: float) -> float:
    return float(f"{rate:.4g}")

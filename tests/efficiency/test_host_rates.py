"""What `plan` takes of prompts and steps whose cache is in host memory, and of busy hosts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from reattention_eval.efficiency.cards import CARDS
from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.e2e.results import busy_host
from reattention_eval.efficiency.fit import Measured, deviation, fit, measured, with_host
from reattention_eval.efficiency.rates import Rates, rates_of
from reattention_eval.efficiency.work import StepWork, Transfers

RECORDS = sorted((Path(__file__).parents[2] / "results" / "gpu").glob("e2e-*.json"))
BAR = 0.15  # E13


def test_steps_whose_keys_come_from_the_host_are_told_by_the_link_and_by_launching(
    cells: list[Measured],
) -> None:
    """Of a step that moves much the link is known, of one that moves little what launching takes;
    without such steps the data sheet counts, and graphs."""
    card = CARDS["h200"]
    plain = fit([cell for cell in cells if cell.makes_rates])
    like = next(cell for cell in cells if cell.card == card.name)
    work = StepWork(1e9, 30, 30)

    def step(seconds: float, keys: float) -> Measured:
        moved = Transfers(0, 0), Transfers(keys, 1e8)
        return replace(like, tier="host", step=work, step_seconds=seconds, moved=moved)

    known = with_host(plain, [step(0.5, 19.9e9), step(0.06, 0.9e9), like])
    assert (known.moved, known.launched) == (0.5 / 20e9, 0.002)
    much, little, none = Transfers(19.9e9, 1e8), Transfers(1e6, 0), Transfers(0, 1e8)

    def seconds(rates: Rates, moved: Transfers) -> float:
        return rates.seconds(like.prompt, work, (Transfers(0, 0), moved), card)[1]

    assert seconds(known, much) == pytest.approx(0.5)
    assert seconds(known, little) == pytest.approx(0.06)
    graph = plain.step_seconds(work)
    assert seconds(known, none) == pytest.approx(graph + 0.0025)
    assert seconds(plain, little) == graph < 0.06
    assert seconds(plain, much) == pytest.approx(20e9 / card.link)
    assert plain.seconds(like.prompt, work)[1] == graph
    slower = known.scaled(card, CARDS["a100-80g"])
    assert slower.moved == pytest.approx(2 * 0.5 / 20e9) and slower.launched == 0.002
    assert with_host(plain, [like]) == plain


def test_what_was_measured_beside_a_busy_host_makes_no_rates(
    cells: list[Measured], in_tiers: list[Measured]
) -> None:
    used = [cell for cell in cells if cell.makes_rates]
    beside = {**used[0].cell, "runs": [{**used[0].cell["runs"][0], "host_busy": 0.3}]}
    assert not replace(used[0], cell=beside).makes_rates
    steps = [cell for cell in in_tiers if cell.tier == "host"]
    rates = with_host(fit(used), steps)
    assert rates.moved
    busy = [
        replace(cell, cell={**cell.cell, "runs": [{**run, "host_busy": 0.3}]})
        for cell in steps for run in cell.cell["runs"][:1]
    ]  # fmt: skip
    assert with_host(fit(used), busy) == fit(used)


def test_prompts_wait_for_a_share_of_the_values_on_the_host(cells: list[Measured]) -> None:
    """It is read off prompts whose keys are on the device, and stays between nothing and all."""
    card = CARDS["h200"]
    plain = fit([cell for cell in cells if cell.makes_rates])
    like = next(cell for cell in cells if cell.card == card.name)
    alone = plain.prompt_seconds(like.prompt)

    def prompt(share: float, values: float, tier: str = "values_on_host") -> Measured:
        moved = Transfers(0, values), Transfers(0, 0)
        seconds = alone + share * values / card.link
        return replace(like, tier=tier, prompt_seconds=seconds, moved=moved)

    some = [prompt(0.25, 1e9), prompt(0.25, 4e9), prompt(2, 4e9, "host"), like]
    assert with_host(plain, some).awaited == pytest.approx(0.25, rel=1e-3)
    assert some[0].predicted(with_host(plain, some))[0] == pytest.approx(some[0].prompt_seconds)
    assert with_host(plain, [prompt(3, 1e9)]).awaited == 1 == with_host(plain, [like]).awaited
    assert with_host(plain, [prompt(-1e-9, 1e9)]).awaited == 0


def test_prompts_with_values_on_the_host_take_what_is_said(in_tiers: list[Measured]) -> None:
    """By rates made without the model and length; beside a busy host none is held to it."""
    told = [c for c in in_tiers if c.tier == "values_on_host" and not busy_host(c.cell)]
    assert len(told) >= 8
    for cell in told:
        others = [one for one in in_tiers if one.place != cell.place]
        rates = with_host(fit([one for one in others if one.makes_rates]), others)
        first, one = cell.predicted(rates)
        assert abs(deviation(first, cell.prompt_seconds)) < BAR, (cell.form, *cell.place)
        assert cell.step_seconds is not None
        assert abs(deviation(one, cell.step_seconds)) < 0.2, (cell.form, *cell.place)


def test_a_cache_that_auto_put_in_two_places_is_a_cell() -> None:
    """With the keys of as many layers as were away; of one that fitted nothing is told twice."""
    path = next(path for path in RECORDS if "llama3.1-8b" in path.name and "79.1g" in path.name)
    record = read(path)
    (cell,) = measured(record)
    assert cell.tier == "auto" and not cell.makes_rates and cell.moved is not None
    token = 7 * 8 * 128 * 2  # seven layers' keys
    assert cell.moved[1].meanwhile == pytest.approx(cell.tokens * token)
    rates = rates_of(cell.card)
    assert rates is not None and cell.step_seconds is not None
    first, one = cell.predicted(rates)
    assert abs(deviation(first, cell.prompt_seconds)) < BAR
    assert abs(deviation(one, cell.step_seconds)) < BAR
    for run in record.data["cells"][0]["runs"]:
        run["layers_with_keys_on_host"] = 0
    assert measured(record) == []

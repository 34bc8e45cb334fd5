"""`reattention-eval bench rates`: how fast a card is, from its records, for `plan`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from reattention_eval.cache import DEVICE
from reattention_eval.cli.console import out
from reattention_eval.efficiency.e2e.bars import entry_of_plans, traceable
from reattention_eval.efficiency.e2e.forms import form_name
from reattention_eval.efficiency.e2e.record import E2ERecord, read
from reattention_eval.efficiency.fit import Measured, deviation, fit, measured, with_host
from reattention_eval.efficiency.rates import FILE, Rates, write_rates
from reattention_eval.efficiency.work import TIMED
from reattention_eval.errors import DataError
from reattention_kernels.bench import record as kernels

LEAST_PLANS = 10  # of bar E13
# `others`: under rates that were made without the cell's model and length
COLUMNS = ("form", "tokens", "commit", "TTFT", "others", "TPOT", "others", "peak")


def make_rates(records: Sequence[Path], into: Path | None, bars: Path | None = None) -> None:
    """Fit, write, and print how far each measured prompt is from its prediction.

    bars: the file that gets E13, of predictions under rates made without the model and length.

    Raises:
        DataError: nothing that can be timed, too few prompts, or records that are not to be
            believed.
    """
    read_ones = [read(path) for path in records]
    cells = [cell for record in read_ones for cell in measured(record)]
    if not cells:
        raise DataError(f"these records hold no prompts of {TIMED} to make rates of.")
    found, entries = {}, []
    for card in sorted({cell.card for cell in cells}):
        own = [cell for cell in cells if cell.card == card]
        found[card] = with_host(fit(_fitted(own)), own)
        for table in _tables(card, own, found[card]):
            out.print(table)
        if bars:
            entries += _bar(own, latest_environment(read_ones, card))
    path = FILE if into is None else into
    write_rates(found, path)
    out.print(str(path.resolve()), soft_wrap=True, markup=False)
    if bars:
        kernels.save(bars, entries)
        for entry in entries:
            out.print(f"E13 {entry['value']:.3f} {entry['shape']}", markup=False)


def _fitted(cells: Sequence[Measured]) -> list[Measured]:
    """Those that rates are made of."""
    return [cell for cell in cells if cell.makes_rates]


def _others(cell: Measured, cells: Sequence[Measured]) -> Rates:
    """Made without its model and length."""
    others = [one for one in cells if one.place != cell.place]
    return with_host(fit(_fitted(others)), others)


def _bar(cells: Sequence[Measured], environment: dict[str, Any] | None) -> list[dict[str, Any]]:
    """E13, of the prompts that tables show with their cache on the device; none where they are
    too few, or cannot be traced."""
    if environment is None or len(_fitted(cells)) < LEAST_PLANS:
        return []
    runs = []
    for cell in _fitted(cells):
        seconds = cell.predicted(_others(cell, cells))[0]
        deviations = [deviation(seconds, cell.prompt_seconds)]
        if cell.planned_bytes is not None:
            deviations.append(deviation(cell.planned_bytes, cell.peak_bytes))
        runs.append({
            "model": cell.model, "form": cell.form, "tokens": cell.tokens, "commit": cell.commit,
            "ttft_seconds": cell.prompt_seconds, "planned_seconds": seconds,
            "peak_bytes": cell.peak_bytes, "planned_bytes": cell.planned_bytes,
            "deviations": deviations,
        })  # fmt: skip
    return [entry_of_plans(runs, environment)]


def latest_environment(records: Sequence[E2ERecord], card: str) -> dict[str, Any] | None:
    """In which a card was measured last, by a commit that is known."""
    found = [
        env
        for record in records if record.data["device"] == card
        for env in record.data["environments"] if traceable(env)
    ]  # fmt: skip
    return max(found, key=lambda env: env["date"], default=None)


def _tables(card: str, cells: Sequence[Measured], rates: Rates) -> Iterator[Table]:
    """For each model, each cell's deviation under `rates`, and under rates made without its model
    and length; of tiers on the host too, which no rates are made of."""
    for model in dict.fromkeys(cell.model for cell in cells):
        title = f"{model} on {card}: predicted against measured"
        table = Table(title=title, box=SIMPLE_HEAD, padding=0, pad_edge=False)
        for i, name in enumerate(COLUMNS):
            table.add_column(name, justify="right" if i else "left", no_wrap=i > 0)
        own = [cell for cell in cells if cell.model == model]
        for cell in sorted(own, key=lambda cell: cell.tier != DEVICE):
            table.add_row(*_row(cell, rates, _others(cell, cells)))
        yield table


def _row(cell: Measured, rates: Rates, others: Rates) -> list[str]:
    first, one = zip(*(cell.predicted(some) for some in (rates, others)), strict=True)
    pairs: list[tuple[float | None, float | None]]
    pairs = [(seconds, cell.prompt_seconds) for seconds in first]
    pairs += [(seconds, cell.step_seconds) for seconds in one]
    pairs.append((cell.planned_bytes, cell.peak_bytes))
    return [
        form_name(cell.form, cell.tier), f"{cell.tokens:,}", cell.commit,
        *(f"{deviation(x, y):+.1%}" if x is not None and y else "" for x, y in pairs),
    ]  # fmt: skip

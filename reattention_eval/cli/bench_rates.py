"""`reattention-eval bench rates`: how fast a card is, from its records, for `plan`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from reattention_eval.cli.console import out
from reattention_eval.efficiency.e2e.record import read
from reattention_eval.efficiency.fit import Measured, deviation, fit, measured
from reattention_eval.efficiency.rates import FILE, Rates, write_rates
from reattention_eval.errors import DataError


def make_rates(records: Sequence[Path], into: Path | None) -> None:
    """Fit, write, and print how far each measured prompt is from its prediction.

    Raises:
        DataError: nothing that can be timed, too few prompts, or records that are not to be
            believed.
    """
    cells = [cell for path in records for cell in measured(read(path))]
    if not cells:
        raise DataError("these records hold no prompts of full attention or ReAttention to time.")
    found = {}
    for card in sorted({cell.card for cell in cells}):
        own = [cell for cell in cells if cell.card == card]
        found[card] = fit([cell for cell in own if cell.latest])
        out.print(_table(card, own, found[card]))
    path = FILE if into is None else into
    write_rates(found, path)
    out.print(str(path.resolve()), soft_wrap=True, markup=False)


def _table(card: str, cells: Sequence[Measured], rates: Rates) -> Table:
    """Each cell's deviation under `rates`, and under rates made without its model and length."""
    table = Table(title=f"{card}: predicted against measured")
    for i, name in enumerate(
        ("model", "form", "tokens", "commit", "TTFT", "of others", "TPOT", "of others")
    ):
        table.add_column(name, justify="left" if i < 2 else "right")
    for cell in cells:
        others = fit([one for one in cells if one.latest and one.place != cell.place])
        row = [cell.model, cell.form, f"{cell.tokens:,}", cell.commit]
        for one in (rates, others):
            row.append(f"{deviation(one.prompt_seconds(cell.prompt), cell.prompt_seconds):+.1%}")
        for one in (rates, others):
            seconds = cell.step_seconds
            row.append(f"{deviation(one.step_seconds(cell.step), seconds):+.1%}" if seconds else "")
        table.add_row(*row)
    return table

"""Figures of a record: medians, ratios to the fastest full attention, and what forbids them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from reattention_eval.cache import DEVICE
from reattention_eval.efficiency.e2e.agreement import disagreements
from reattention_eval.efficiency.e2e.forms import form_name
from reattention_eval.efficiency.e2e.record import BUSY_HOST, BUSY_SHARE, E2ERecord
from reattention_eval.errors import DataError

Cell = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A length's cells by `name_of`, all of one environment: one card, one commit, the same
    versions."""

    tokens: int
    environment: dict[str, Any]
    cells: dict[str, Cell]

    def fastest_full(self, figure: str) -> tuple[str, float] | None:
        """The baseline: (form, seconds); None where no full attention has this figure."""
        found = {
            form: value
            for form, cell in self.cells.items()
            if cell["full"] and (value := figure_of(cell, figure)) is not None
        }
        return min(found.items(), key=lambda item: item[1]) if found else None

    def speedup(self, form: str, figure: str) -> float | None:
        own, baseline = figure_of(self.cells.get(form, {}), figure), self.fastest_full(figure)
        return baseline[1] / own if own and baseline else None


# tokens a second, of a time
RATES = {"prompt_rate": "ttft_seconds", "answer_rate": "tpot_seconds"}


def figure_of(cell: Cell, figure: str) -> float | None:
    """The median over a cell's runs; None where it has none of this figure."""
    if figure in RATES:
        seconds = figure_of(cell, RATES[figure])
        if seconds is None:
            return None
        return (cell["tokens"] if figure == "prompt_rate" else 1) / seconds
    found = [run[figure] for run in cell.get("runs", []) if run.get(figure) is not None]
    return median(found) if found else None


def busy_share(run: dict[str, Any]) -> float:
    """The share of the host's processors that others kept busy beside a run; 0 where that is
    little, or older than the measure."""
    share = run.get(BUSY_HOST) or 0.0
    return share if share > BUSY_SHARE else 0.0


def busy_host(cell: Cell) -> float:
    """`busy_share` of a cell's runs, at most."""
    return max(map(busy_share, cell.get("runs", [])), default=0.0)


def name_of(cell: Cell) -> str:
    """A cell's form and tier, as tables and plots call it."""
    return form_name(cell["form"], cell.get("cache", DEVICE))


def columns(record: E2ERecord) -> list[Column]:
    """Every length once, from the latest environment in which most of its forms were measured.

    Raises:
        DataError: forms that should agree do not.
    """
    require_agreement(record)
    found = []
    for tokens in record.lengths:
        places = [i for i in range(len(record.data["environments"])) if record.cells(tokens, i)]
        number = max(places, key=lambda i: (_comparable(record.cells(tokens, i)), i))
        cells = {name_of(cell): cell for cell in record.cells(tokens, number)}
        found.append(Column(tokens, record.data["environments"][number], cells))
    return found


def _comparable(cells: list[Cell]) -> bool:
    """Whether full attention and something else stand side by side."""
    return len({cell["full"] for cell in cells if cell["runs"]}) == 2


def require_agreement(record: E2ERecord) -> None:
    """Raise DataError where forms that should agree, in one environment, do not."""
    problems = []
    for number in range(len(record.data["environments"])):
        for tokens in record.lengths:
            problems += disagreements(record.cells(tokens, number), record.data["dtype"])
    if problems:
        raise DataError(
            f"nothing is reported of {record.path or 'this record'}: {'; '.join(problems)}. One of "
            "them computes something else; find out which before any time is believed."
        )


Shown = Callable[[Cell], str]


def shown(figure: str, scale: float) -> Shown:
    """A cell's figure with three digits, or why there is none; empty where it was not measured."""

    def show(cell: Cell) -> str:
        value = figure_of(cell, figure)
        if value is not None:
            return three_digits(value * scale)
        if cell.get("out_of_memory"):
            return "out of memory"
        return "cannot run" if cell.get("failed") else ""

    return show


def three_digits(value: float) -> str:
    """12.345 as 12.3, 1234.5 as 1,234: never in powers of ten."""
    digits = next((d for d in range(4) if abs(value) >= 10 ** (2 - d)), 4)
    return f"{value:,.{digits}f}"

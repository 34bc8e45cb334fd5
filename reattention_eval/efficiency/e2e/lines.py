"""A record as CSV: a line for each cell that tables show."""

from __future__ import annotations

import csv
from pathlib import Path

from reattention_eval.cache import DEVICE
from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.e2e.table import order

# seconds, tokens a second, bytes, joules
FIGURES = (
    "ttft_seconds", "prompt_rate", "tpot_seconds", "answer_rate", "peak_bytes", "above_bytes",
    "cache_bytes", "host_bytes", "host_peak_bytes", "value_hits", "prompt_joules", "token_joules",
)  # fmt: skip
HEAD = ("model", "device", "form", "cache", "tokens", "commit", "date", "runs", *FIGURES, "why_not")


def write_lines(record: E2ERecord, path: Path) -> Path:
    """Medians over a cell's runs; empty where there are none, and then why.

    Raises:
        DataError: forms that should agree do not.
    """
    data = record.data
    lines = []
    for column in columns(record):
        env = column.environment
        for name in sorted(column.cells, key=order):
            cell = column.cells[name]
            figures = [figure_of(cell, figure) for figure in FIGURES]
            lines.append(
                [data["model"], env["device"], cell["form"], cell.get("cache", DEVICE)]
                + [column.tokens, env["commit"] or "", env["date"], len(cell["runs"])]
                + ["" if value is None else f"{value:.6g}" for value in figures]
                + [cell.get("out_of_memory") or cell.get("failed") or ""]
            )
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([HEAD, *lines])
    return path

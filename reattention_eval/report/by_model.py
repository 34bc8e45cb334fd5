"""Many models on one dataset: models down, methods across."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.measures import count_words, metrics
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import figure_interval
from reattention_eval.report.tables import Grid, interval_words


def model_grid(cells: Sequence[Cell], metric: str, digits: int = 1) -> Grid:
    """`metric` with its interval, n and the share of samples that selected, of every model under
    every method; a missing cell shows as `-`."""

    def figure(cell: Cell) -> str:
        value = metrics(cell).get(metric)
        if value is None:
            return "-"
        interval = interval_words(figure_interval(cell, metric), digits)
        return f"{value:.{digits}f}{interval} ({count_words(cell)})"

    return _grid(cells, figure)


def selection_grid(cells: Sequence[Cell]) -> Grid:
    """How many layer-steps attended to a part of the cache, of how many, over all prompts."""

    def figure(cell: Cell) -> str:
        records = cell.records.values()
        chosen, steps = (
            sum(r.get(key) or 0 for r in records) for key in ("layer_steps_selected", "layer_steps")
        )
        return f"{chosen:,} of {steps:,}" if steps else "-"

    return _grid(cells, figure)


def never_selected(cells: Sequence[Cell], methods: Sequence[str]) -> list[str]:
    """One sentence for each cell of `methods` with a prompt in which no layer selected.

    Unlike `problems`, whatever the prompt's length: for runs made to select everywhere.
    """
    found = []
    for cell in cells:
        if cell.manifest.get("method", {}).get("name") not in methods:
            continue
        silent = [r for r in cell.records.values() if not r.get("layer_steps_selected")]
        if silent or not cell.records:
            found.append(
                f"{cell.model} on {cell.dataset}: in {len(silent)} of {len(cell.records)} prompts "
                "no layer selected anything."
            )
    return found


def _grid(cells: Sequence[Cell], figure: Callable[[Cell], str]) -> Grid:
    labels = method_labels(cells)
    columns = list(dict.fromkeys(labels[cell.model] for cell in cells))
    rows: dict[str, dict[str, str]] = {}
    for cell in cells:
        rows.setdefault(model_name(cell), {})[labels[cell.model]] = figure(cell)
    return ["model", *columns], [
        [name, *(row.get(column, "-") for column in columns)] for name, row in rows.items()
    ]

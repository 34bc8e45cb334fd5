"""The needle heat map: depth x length for each method, side by side, from a run's results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reattention_eval.report.labels import method_labels, model_name
from reattention_eval.report.needles import MANY_DEPTHS, form, form_title
from reattention_eval.report.run import Cell

# cividis reads the same with and without colour vision; its reverse keeps "bright is better"
ROWS = (
    ("accuracy", "needles found, %", "cividis", 0.0, 100.0, "{:.0f}"),
    ("answer_nll", "answer NLL\n(lower is better)", "cividis_r", 0.0, 5.0, "{:.1f}"),
)


PANELS_ACROSS = 4


def needle_grid(cells: Sequence[Cell], metric: str) -> dict[tuple[float, int], tuple[float, int]]:
    """(depth, length) -> (mean, n) over the per-sample details of one method's cells."""
    values: dict[tuple[float, int], list[float]] = defaultdict(list)
    for cell in cells:
        for entry in cell.details:
            if entry.get(metric) is None or "depth" not in entry or "length" not in entry:
                continue
            values[float(entry["depth"]), int(entry["length"])].append(float(entry[metric]))
    return {key: (sum(found) / len(found), len(found)) for key, found in values.items()}


def draw_heatmap(cells: Sequence[Cell], path: Path) -> Path | None:
    """Write the heat map of one form's cells as PNG; None where no cell keeps depths.

    Raises:
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    methods = {
        model: [c for c in cells if c.model == model and needle_grid([c], "accuracy")]
        for model in dict.fromkeys(c.model for c in cells)
    }
    methods = {model: own for model, own in methods.items() if own}
    if not methods:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [r for r in ROWS if any(needle_grid(own, r[0]) for own in methods.values())]
    grids = {m: [needle_grid(own, r[0]) for r in rows] for m, own in methods.items()}
    keys = {key for own in grids.values() for grid in own for key in grid}
    depths, lengths = sorted({d for d, _ in keys}), sorted({n for _, n in keys})
    across = min(len(methods), PANELS_ACROSS)
    down = len(rows) * math.ceil(len(methods) / across)  # methods wrap, each with all its rows
    width = max(2.4, 0.55 * len(lengths) + 0.8) * across + 1.6
    height = max(2.0, 0.3 * len(depths) + 0.8) * down + 1.0
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(down, across, squeeze=False)
    labels = method_labels(cells)
    several = len({model_name(own[0]) for own in methods.values()}) > 1
    for place, (model, own) in enumerate(methods.items()):
        block, column = len(rows) * (place // across), place % across
        title = labels[model].replace(" (", "\n(").replace(", ", ",\n")
        title = f"{model_name(own[0])}\n{title}" if several else title
        axes[block][column].set_title(title, fontsize=9, parse_math=False)
        for row, spec in enumerate(rows):
            axis = axes[block + row][column]
            image = _panel(axis, grids[model][row], depths, lengths, spec)
            _mark_window(axis, lengths, trained_window(own))
            if column == 0:
                axis.set_ylabel("needle depth, %")
                figure.colorbar(image, ax=list(axes[block + row]), label=spec[1], pad=0.01)
            if row == len(rows) - 1:
                axis.set_xlabel("prompt length, tokens")
    for axis in axes.flat:
        axis.set_visible(axis.has_data())
    figure.suptitle(_title(cells, grids), fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def trained_window(cells: Sequence[Cell]) -> int | None:
    """Tokens the checkpoint was trained to read, from the manifest."""
    for cell in cells:
        window = cell.manifest.get("model", {}).get("trained_window")
        if window:
            return int(window)
    return None


def _panel(
    axis: Any,
    grid: dict[tuple[float, int], tuple[float, int]],
    depths: list[float],
    lengths: list[int],
    spec: tuple[str, str, str, float, float, str],
) -> Any:
    _, _, colours, low, high, text = spec
    matrix = [[grid.get((d, n), (math.nan, 0))[0] for n in lengths] for d in depths]
    image = axis.imshow(matrix, cmap=colours, vmin=low, vmax=high, aspect="auto")
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            if math.isnan(value):
                continue
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(
                j, i, text.format(value), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axis.set_xticks(range(len(lengths)), [_thousands(n) for n in lengths], rotation=45)
    axis.set_yticks(range(len(depths)), [f"{d:g}" for d in depths])
    return image


def _mark_window(axis: Any, lengths: list[int], window: int | None) -> None:
    """A dashed line between the lengths inside the trained window and those beyond it."""
    inside = sum(1 for length in lengths if window and length <= window)
    if window and 0 < inside < len(lengths):
        axis.axvline(inside - 0.5, color="black", linewidth=1.2, linestyle=(0, (3, 2)))


def _thousands(tokens: int) -> str:
    for unit, name in ((1024**2, "M"), (1024, "K")):
        if tokens % unit == 0:
            return f"{tokens // unit}{name}"
    return f"{tokens:,}"


def _title(cells: Sequence[Cell], grids: dict[str, list[dict[tuple[float, int], Any]]]) -> str:
    counts = {n for own in grids.values() for _, n in own[0].values()}
    n = f"n = {counts.pop()}" if len(counts) == 1 else f"n = {min(counts)} to {max(counts)}"
    names = ", ".join(dict.fromkeys(model_name(c) for c in cells))
    window = trained_window(cells)
    line = f"; dashed line: trained window of {window:,} tokens" if window else ""
    many = any(form(cell) == MANY_DEPTHS for cell in cells)
    test = form_title(MANY_DEPTHS).capitalize() if many else "Needle in a haystack"
    return f"{test}, {names}: {n} a square{line}"

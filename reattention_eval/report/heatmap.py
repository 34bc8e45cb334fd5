"""The needle heat map: depth x length for each method, side by side, from a run's results."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from reattention_eval.pictures import save_picture
from reattention_eval.report.apart import apart
from reattention_eval.report.frame import Frame
from reattention_eval.report.labels import model_name
from reattention_eval.report.measures import cell_length
from reattention_eval.report.needles import MANY_DEPTHS, form, form_title
from reattention_eval.report.run import Cell
from reattention_eval.report.tables import titled

# cividis reads the same with and without colour vision; its reverse keeps "bright is better"
ROWS = (
    ("accuracy", "needles found, %", "cividis", 0.0, 100.0, "{:.0f}"),
    ("answer_nll", "answer NLL\n(lower is better)", "cividis_r", 0.0, 5.0, "{:.1f}"),
)
PANELS_ACROSS = 4
ACROSS = 13.5  # inches of them: a page's width, three methods from 32K to 4M


def needle_grid(cells: Sequence[Cell], metric: str) -> dict[tuple[float, int], tuple[float, int]]:
    """(depth, length) -> (mean, n) over the per-sample details of one method's cells."""
    values: dict[tuple[float, int], list[float]] = defaultdict(list)
    for cell in cells:
        for entry in cell.details:
            if any(entry.get(key) is None for key in (metric, "depth", "length")):
                continue
            values[float(entry["depth"]), int(entry["length"])].append(float(entry[metric]))
    return {key: (sum(found) / len(found), len(found)) for key, found in values.items()}


def panels(frame: Frame, datasets: Sequence[str]) -> dict[str, list[Cell]]:
    """Cells that keep depths by what tables call their row; cells that were asked differently are
    in panels of their own."""
    out: dict[str, list[Cell]] = {}
    for row, title in titled(frame.rows, datasets):
        own = [row.cells[name] for name in datasets if name in row.cells]
        kept = [cell for cell in own if needle_grid([cell], "accuracy")]
        for words, alike in apart(kept, cell_length) if kept else []:
            out[f"{title} ({words})" if words else title] = alike
    return out


def heatmap(frame: Frame, datasets: Sequence[str]) -> Any | None:
    """The heat map of one form's datasets, a matplotlib figure; None where no cell keeps depths.

    Raises:
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    methods = panels(frame, datasets)
    if not methods:
        return None
    from matplotlib.figure import Figure

    rows = [r for r in ROWS if any(needle_grid(own, r[0]) for own in methods.values())]
    grids = {m: [needle_grid(own, r[0]) for r in rows] for m, own in methods.items()}
    keys = {key for own in grids.values() for grid in own for key in grid}
    depths, lengths = sorted({d for d, _ in keys}), sorted({n for _, n in keys})
    panel = max(2.4, 0.45 * len(lengths) + 0.7)
    across = min(len(methods), PANELS_ACROSS, max(1, int(ACROSS / panel)))
    down = len(rows) * math.ceil(len(methods) / across)  # methods wrap, each with all its rows
    width = panel * across + 1.6
    height = max(2.0, 0.3 * len(depths) + 0.8) * down + 1.0
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False)
    for place, (title, own) in enumerate(methods.items()):
        block, column = len(rows) * (place // across), place % across
        words = title.replace(": ", "\n", 1).replace(" (", "\n(").replace(", ", ",\n")
        axes[block][column].set_title(words, fontsize=9, parse_math=False)
        for row, spec in enumerate(rows):
            axis = axes[block + row][column]
            image = _panel(axis, grids[title][row], depths, lengths, spec)
            _mark_window(axis, lengths, trained_window(own))
            if column == 0:
                axis.set_ylabel("needle depth, %")
                beside = axes[block + row][len(methods) - place :]  # empty: methods end before
                where = (
                    {"cax": beside[0].inset_axes((0, 0, 0.04, 1))}
                    if len(beside)
                    else {"ax": list(axes[block + row]), "pad": 0.01}
                )
                figure.colorbar(image, label=spec[1], **where)
            if row == len(rows) - 1:
                axis.set_xlabel("prompt length, tokens")
    for axis in axes.flat:
        if not axis.has_data():
            axis.set_axis_off()
    cells = [cell for own in methods.values() for cell in own]
    words = "\n".join(wrap(_title(cells, grids), int(12 * width)))
    figure.suptitle(words, fontsize=11, parse_math=False)
    return figure


def draw_heatmap(frame: Frame, datasets: Sequence[str], path: Path) -> Path | None:
    """Write `heatmap` as PNG; None where there is none.

    Raises:
        ImportError: matplotlib is absent.
    """
    figure = heatmap(frame, datasets)
    if figure is None:
        return None
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, path, dpi=150)
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
    image = axis.pcolormesh(matrix, cmap=colours, vmin=low, vmax=high)
    axis.invert_yaxis()
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            if math.isnan(value):
                continue
            red, green, blue, _ = image.cmap(image.norm(value))
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
            axis.text(
                j + 0.5, i + 0.5, text.format(value), ha="center", va="center", fontsize=8,
                color="white" if dark else "black",
            )  # fmt: skip
    axis.set_xticks([i + 0.5 for i in range(len(lengths))], map(thousands, lengths), rotation=45)
    axis.set_yticks([i + 0.5 for i in range(len(depths))], [f"{d:g}" for d in depths])
    return image


def _mark_window(axis: Any, lengths: list[int], window: int | None) -> None:
    """A dashed line between the lengths inside the trained window and those beyond it."""
    inside = sum(1 for length in lengths if window and length <= window)
    if window and 0 < inside < len(lengths):
        axis.axvline(inside, color="black", linewidth=1.2, linestyle=(0, (3, 2)))


def thousands(tokens: int) -> str:
    """Tokens as an axis names them: 128K, 2M."""
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

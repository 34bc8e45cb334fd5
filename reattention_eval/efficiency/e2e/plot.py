"""A record as a picture: times, memory and energy over the prompt's length."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.e2e.table import WORDS, order
from reattention_eval.machine_memory import GIB
from reattention_eval.pictures import logarithmic, save_picture

PANELS = (
    ("ttft_seconds", 1.0, "time to first token, s"),
    ("tpot_seconds", 1000.0, "time per output token, ms"),
    ("peak_bytes", 1 / GIB, "peak memory of the GPU, GiB"),
    ("host_bytes", 1 / GIB, "KV cache in host memory, GiB"),
    ("prompt_joules", 0.001, "energy of a prompt, kJ"),
    ("token_joules", 1.0, "energy of an output token, J"),
)
FROM_ZERO = ("tpot_seconds", "token_joules")
TIMES = 2  # of PANELS; the others are drawn where they were measured


def draw(record: E2ERecord, path: Path) -> Path:
    """Write the picture as PNG.

    Raises:
        DataError: forms that should agree do not.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    found = columns(record)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells = [cell for column in found for cell in column.cells.values()]
    panels = [
        panel for i, panel in enumerate(PANELS)
        if i < TIMES or any(figure_of(cell, panel[0]) is not None for cell in cells)
    ]  # fmt: skip
    rows = ceil(len(panels) / 2)
    figure = Figure(figsize=(10, 0.6 + 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False).flatten().tolist()
    for axis in axes[len(panels) :]:
        axis.remove()
    axes = axes[: len(panels)]
    forms = sorted({form for column in found for form in column.cells}, key=order)
    for axis, (name, scale, label) in zip(axes, panels, strict=True):
        for place, form in enumerate(forms):
            points = [
                (column.tokens, scale * value)
                for column in found
                if (value := figure_of(column.cells.get(form, {}), name)) is not None
            ]
            if points:
                _line(axis, form, points, f"C{place}")
        axis.set_xscale("log", base=2)
        axis.set_xticks([c.tokens for c in found], [f"{c.tokens:,}" for c in found], rotation=45)
        axis.minorticks_off()
        axis.set_xlabel("prompt, tokens")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if name in FROM_ZERO:
            axis.set_ylim(bottom=0)
        else:
            logarithmic(axis)
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, fontsize=8)
    devices = dict.fromkeys(column.environment["device"] for column in found)
    title = f"{record.data['model']}, {record.data['weights']}: {', '.join(devices)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, path, dpi=150)
    return path


def _line(axis: Any, form: str, points: list[tuple[int, float]], colour: str) -> None:
    strong = form.startswith("reattention")
    axis.plot(
        *zip(*points, strict=True), label=WORDS.get(form, form),
        color=colour, marker="o", markersize=4,
        linewidth=2.2 if strong else 1.2, zorder=3 if strong else 2,
    )  # fmt: skip

"""A record as a picture: TTFT and TPOT over the prompt's length."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import columns, figure_of
from reattention_eval.efficiency.e2e.table import WORDS

PANELS = (
    ("ttft_seconds", 1.0, "time to first token, s"),
    ("tpot_seconds", 1000.0, "time per output token, ms"),
)


def draw(record: E2ERecord, path: Path) -> Path:
    """Write the picture as PNG.

    Raises:
        DataError: forms that should agree do not.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    found = columns(record)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(PANELS))
    forms = dict.fromkeys(form for column in found for form in column.cells)
    for axis, (name, scale, label) in zip(axes, PANELS, strict=True):
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
    axes[0].set_yscale("log")
    axes[1].set_ylim(bottom=0)
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, fontsize=8)
    devices = dict.fromkeys(column.environment["device"] for column in found)
    title = f"{record.data['model']}, {record.data['weights']}: {', '.join(devices)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


def _line(axis: Any, form: str, points: list[tuple[int, float]], colour: str) -> None:
    strong = form.startswith("reattention")
    axis.plot(
        *zip(*points, strict=True), label=WORDS.get(form, form),
        color=colour, marker="o", markersize=4,
        linewidth=2.2 if strong else 1.2, zorder=3 if strong else 2,
    )  # fmt: skip

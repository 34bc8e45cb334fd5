"""A record as a picture: times, memory and energy over the prompt's length, or the answer's."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

from reattention_eval.efficiency.e2e.record import E2ERecord
from reattention_eval.efficiency.e2e.results import Column, columns, figure_of
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
APART = 8  # values so many times each other leave the smaller ones on one line above zero
TIMES = 2  # of PANELS; the others are drawn where they were measured


def draw(record: E2ERecord, path: Path) -> Path | None:
    """Write the picture as PNG: over the prompt's length, of long answers over the answer's. None
    where all prompts have one length, of which a table says as much.

    Raises:
        DataError: forms that should agree do not.
        ImportError: matplotlib is absent (`pip install "reattention-eval[report]"`).
    """
    found = columns(record)
    if record.long_answers:
        figure = _of_answers(found)
    elif len(found) > 1:
        figure = _of_prompts(found)
    else:
        return None
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=3, fontsize=8)
    devices = dict.fromkeys(column.environment["device"] for column in found)
    title = f"{record.data['model']}, {record.data['weights']}: {', '.join(devices)}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_picture(figure, path, dpi=150)
    return path


def _of_prompts(found: Sequence[Column]) -> Any:
    cells = [cell for column in found for cell in column.cells.values()]
    panels = [
        panel for i, panel in enumerate(PANELS)
        if i < TIMES or any(figure_of(cell, panel[0]) is not None for cell in cells)
    ]  # fmt: skip
    figure, axes = _panels(len(panels))
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
        values = _values(axis)
        if name in FROM_ZERO and max(values, default=1) <= APART * min(values, default=1):
            _from_zero(axis)
        else:
            logarithmic(axis)
    return figure


def _of_answers(found: Sequence[Column]) -> Any:
    """Speed and memory of each thousand tokens, of the last run of each cell."""
    figure, axes = _panels(2)
    for axis, label in zip(axes, ("tokens a second", "memory of the GPU in use, GiB"), strict=True):
        axis.set_xlabel("answer, tokens")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    place = 0
    for column in found:
        for form, cell in sorted(column.cells.items(), key=lambda item: order(item[0])):
            parts = cell["runs"][-1]["thousands"]
            at = range(1000, 1000 * len(parts) + 1, 1000)
            name = f"{WORDS.get(form, form)}, behind {column.tokens:,}"
            speeds = [1000 / part["seconds"] for part in parts]
            _line(axes[0], form, list(zip(at, speeds, strict=True)), f"C{place}", name)
            held = [part["allocated_bytes"] for part in parts]
            if None not in held:
                sizes = [size / GIB for size in held]
                _line(axes[1], form, list(zip(at, sizes, strict=True)), f"C{place}", name)
            place += 1
    for axis in axes:
        _from_zero(axis)
    return figure


def _panels(count: int) -> tuple[Any, list[Any]]:
    """A figure and so many axes, two in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = ceil(count / 2)
    figure = Figure(figsize=(10, 0.6 + 4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2, squeeze=False).flatten().tolist()
    for axis in axes[count:]:
        axis.remove()
    return figure, axes[:count]


def _from_zero(axis: Any) -> None:
    axis.set_ylim(0, 1.05 * max(_values(axis), default=1.0))


def _values(axis: Any) -> list[float]:
    return [value for line in axis.get_lines() for value in line.get_ydata()]


def _line(
    axis: Any, form: str, points: list[tuple[int, float]], colour: str, name: str | None = None
) -> None:
    strong = form.startswith("reattention")
    axis.plot(
        *zip(*points, strict=True), label=name or WORDS.get(form, form),
        color=colour, marker="o", markersize=4,
        linewidth=2.2 if strong else 1.2, zorder=3 if strong else 2,
    )  # fmt: skip

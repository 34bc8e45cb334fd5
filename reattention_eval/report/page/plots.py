"""Pictures of the page: score and costs against length, and what layers attended to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from textwrap import wrap
from typing import Any, NamedTuple

from reattention_eval.report.frame import FIGURES, TASKS, Figure, Frame, Row
from reattention_eval.report.heatmap import thousands, trained_window
from reattention_eval.report.intervals import median_interval
from reattention_eval.report.needles import first_token_seconds, peaks, token_seconds
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import details_by_index
from reattention_eval.report.tables import HEADINGS, titled

# Okabe and Ito's colours, told apart with and without colour vision, on white and on black
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#b2a300")
MARKERS = "osD^vPX*"
COSTS: Mapping[str, Callable[[Cell], list[float]]] = {
    "time to first token, s": first_token_seconds,
    "time per output token, s": token_seconds,
    "peak memory, GiB": peaks,
}
ACROSS = 3  # charts
BINS = 512  # of the context


class Point(NamedTuple):
    """A figure at a length, with the ends of its interval where there is one."""

    length: int
    value: float
    low: float
    high: float


Line = tuple[str, list[Point]]


def score_lines(frame: Frame, datasets: Sequence[str]) -> dict[str, list[Line]]:
    """Each figure of these datasets against their lengths, by what it is called."""
    out: dict[str, list[Line]] = {}
    wanted = set(datasets)
    metrics = dict.fromkeys(
        f.metric for f in frame.figures if not f.average_of and f.dataset in wanted
    )
    for metric in metrics:
        lines = []
        for row, title in titled(frame.rows, datasets):
            own = (frame.figure(row.cells[name], metric) for name in datasets if name in row.cells)
            lines.append((title, _points(own)))
        out[HEADINGS.get(metric, metric)] = lines
    return _over_lengths(out)


def average_lines(frame: Frame) -> dict[str, list[Line]]:
    """The average of all tasks of each benchmark against the length."""
    found: dict[str, dict[int, list[Figure]]] = {}
    for figure in frame.figures:
        if figure.average_of == TASKS and figure.place:
            heading = f"{figure.place.benchmark}, {FIGURES[figure.metric]}: average of all tasks"
            found.setdefault(heading, {}).setdefault(id(figure.row), []).append(figure)
    several = len({row.model for row in frame.rows}) > 1
    return _over_lengths(
        {
            heading: [(_title(own[0].row, several), _points(own)) for own in by_row.values()]
            for heading, by_row in found.items()
        }
    )


def cost_lines(frame: Frame, datasets: Sequence[str]) -> dict[str, list[Line]]:
    """What prompts of these datasets took against their length in tokens: medians of all of a
    length."""
    out: dict[str, list[Line]] = {}
    for heading, values in COSTS.items():
        for row, title in titled(frame.rows, datasets):
            taken: dict[int, list[float]] = {}
            for cell in (row.cells[name] for name in datasets if name in row.cells):
                if length := cell.manifest.get("dataset", {}).get("length"):
                    taken.setdefault(int(length), []).extend(values(cell))
            points = []
            for length, found in sorted(taken.items()):
                if found:
                    ends = median_interval(found) or (math.nan, math.nan)
                    points.append(Point(length, median(found), *ends))
            out.setdefault(heading, []).append((title, points))
    return _over_lengths(out)


def draw_lines(charts: Mapping[str, Sequence[Line]], windows: Sequence[int]) -> Any:
    """Charts beside each other as a matplotlib figure, trained windows as dotted lines."""
    from matplotlib.figure import Figure as Canvas

    across = min(len(charts), ACROSS)
    down = math.ceil(len(charts) / across)
    legend = 0.22 * math.ceil(max(map(len, charts.values())) / across)
    figure = Canvas(figsize=(3.75 * across, 3.2 * down + 0.3 + legend), layout="constrained")
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in axes[len(charts) :]:
        axis.set_visible(False)
    axes = axes[: len(charts)]
    for axis, (heading, lines) in zip(axes, charts.items(), strict=True):
        lengths = sorted({point.length for _, points in lines for point in points})
        for place, (title, points) in enumerate(lines):
            shift = 1 + 0.012 * (place - len(lines) / 2)  # or intervals hide each other
            _draw_line(axis, title, points, place, shift)
        for window in windows:
            if lengths and lengths[0] <= window < lengths[-1]:
                axis.axvline(window, linestyle=":", linewidth=1, color="#8c8c8c")
        axis.set_xscale("log", base=2)
        axis.set_xticks(lengths, list(map(thousands, lengths)), rotation=45)
        axis.minorticks_off()
        axis.set_xlabel("prompt length, tokens")
        axis.set_title("\n".join(wrap(heading, 48)), fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    named = {line.get_label(): line for axis in axes for line in axis.containers}
    figure.legend(named.values(), named, loc="outside lower left", ncols=across, fontsize=8)
    return figure


def _draw_line(axis: Any, title: str, points: Sequence[Point], place: int, shift: float) -> None:
    below = [0.0 if math.isnan(p.low) else max(0.0, p.value - p.low) for p in points]
    above = [0.0 if math.isnan(p.high) else max(0.0, p.high - p.value) for p in points]
    axis.errorbar(
        [p.length * shift for p in points], [p.value for p in points], yerr=[below, above],
        label=title, color=COLOURS[place % len(COLOURS)], marker=MARKERS[place % len(MARKERS)],
        markersize=5, linewidth=1.6, capsize=2.5, elinewidth=0.9,
    )  # fmt: skip


def attended(frame: Frame) -> tuple[str, dict[str, tuple[Cell, int]]]:
    """Of the longest dataset of which records keep it, if there is one with a needle whose place is
    known of those: its name, and by row the cell and the sample whose layers' views are there."""
    found: dict[str, dict[str, tuple[Cell, int]]] = {}
    for row, title in titled(frame.rows, [cell.dataset for cell in frame.cells]):
        for name, cell in row.cells.items():
            kept = [i for i, record in cell.records.items() if any(record.get("attended") or [])]
            if kept:
                found.setdefault(name, {})[title] = cell, kept[0]
    if not found:
        return "", {}

    def worth(name: str) -> tuple[bool, float]:
        cell, index = next(iter(found[name].values()))
        tokens = float(cell.records[index].get("n_tokens") or 0)
        return needle_depth(cell, index) is not None, tokens

    longest = max(found, key=worth)
    return longest, found[longest]


def draw_attended(samples: Mapping[str, tuple[Cell, int]]) -> Any:
    """Layers down, context across: how much of each stretch the prompt's last chunk attended to;
    the needle dashed."""
    from matplotlib.figure import Figure as Canvas

    deepest = max(len(cell.records[i]["attended"]) for cell, i in samples.values())
    height = 1.1 + (0.5 + 0.075 * deepest) * len(samples)
    figure = Canvas(figsize=(9.2, height), layout="constrained")
    axes = figure.subplots(len(samples), 1, squeeze=False, sharex=True)[:, 0]
    for axis, (title, (cell, index)) in zip(axes, samples.items(), strict=True):
        record = cell.records[index]
        layers = record["attended"]
        tokens = int(record.get("n_tokens") or max(max(spans, default=1) for spans in layers))
        image = show_attended(axis, [in_pairs(spans) for spans in layers], tokens)
        depth = needle_depth(cell, index)
        if depth is not None:
            axis.axvline(
                depth * tokens / 100, color="#d55e00", linestyle=(0, (4, 2)), linewidth=1.6
            )
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_ylabel("layer")
    axes[-1].set_xlabel("position in the prompt, tokens")
    axes[-1].xaxis.set_major_formatter(lambda place, _: f"{place:,.0f}")
    figure.colorbar(image, ax=list(axes), label="share attended to", pad=0.01, aspect=30)
    return figure


def in_pairs(spans: Sequence[int]) -> list[tuple[int, int]]:
    """Spans [start, end) of start, end, start, end, ..."""
    return list(zip(spans[::2], spans[1::2], strict=True))


def show_attended(axis: Any, views: Sequence[Iterable[tuple[int, int]]], tokens: int) -> Any:
    """A row a layer, of the spans it attended to in a prompt of so many tokens; the image."""
    from matplotlib.colors import PowerNorm

    return axis.imshow(
        [stretch_shares(spans, tokens) for spans in views], aspect="auto", cmap="cividis",
        interpolation="nearest", extent=(0, tokens, len(views) - 0.5, -0.5),
        norm=PowerNorm(0.5, 0, 1),  # a span of a long prompt is a small part of its stretch
    )  # fmt: skip


def stretch_shares(spans: Iterable[tuple[int, int]], tokens: int) -> list[float]:
    """How much of each of BINS equal parts of a prompt the spans [start, end) cover, 0..1."""
    size = tokens / BINS
    shares = [0.0] * BINS
    for start, end in spans:
        end = min(end, tokens)
        for part in range(int(start / size), min(BINS, math.ceil(end / size))):
            within = min(end, (part + 1) * size) - max(start, part * size)
            shares[part] += max(0.0, within) / size
    return [min(1.0, share) for share in shares]


def needle_depth(cell: Cell, index: int) -> float | None:
    """Where the sample's needle stands, in percent of its text; None where it has no single one."""
    own = details_by_index(cell).get(index, [])
    depth = own[0].get("depth") if len(own) == 1 else None
    return None if depth is None or math.isnan(depth) else float(depth)


def windows_of(frame: Frame) -> list[int]:
    """Trained windows of the models."""
    return sorted({w for cell in frame.cells if (w := trained_window([cell]))})


def _title(row: Row, several: bool) -> str:
    return f"{row.model}: {row.method}" if several else row.method


def _points(figures: Any) -> list[Point]:
    found: dict[int, list[Point]] = {}
    for figure in figures:
        if figure is not None and figure.length and not math.isnan(figure.value):
            low, high, _ = figure.interval or (math.nan, math.nan, "")
            point = Point(figure.length, figure.value, low, high)
            found.setdefault(figure.length, []).append(point)
    # two datasets of one length are two figures, and no line goes through both
    return [own[0] for _, own in sorted(found.items()) if len(own) == 1]


def _over_lengths(charts: dict[str, list[Line]]) -> dict[str, list[Line]]:
    """Those with at least two lengths."""
    kept = {}
    for heading, lines in charts.items():
        drawn = [(title, points) for title, points in lines if points]
        if len({point.length for _, points in drawn for point in points}) > 1:
            kept[heading] = drawn
    return kept

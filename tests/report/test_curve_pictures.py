"""What the picture of `curve` shows of many methods, and of points of one length."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from reattention_eval.report.curve import pictures
from reattention_eval.report.curve.points import Point

METHODS = [f"reattention 8,192 (last_tokens=document, vote_memory={n})" for n in range(30)]


def picture(
    points: list[Point],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    draw: Callable[..., None] = pictures.draw_panels,
    *more: Any,
) -> Figure:
    """Drawn whole, which is when the layout may find no room."""
    drawn: list[Any] = []

    def keep(figure: Figure, path: Path, dpi: int) -> None:
        drawn.append(figure)
        figure.savefig(path, dpi=40)
        figure.draw_without_rendering()  # in its own dots again

    monkeypatch.setattr(pictures, "save_picture", keep)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        draw(points, *more, 2048, tmp_path / "curve.png")
    return drawn[0]


def test_thirty_lines_leave_the_panels_their_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = [
        Point(panel, "m", method, length, 50.0, 22, 40.0, 60.0)
        for panel in ("found, %", "score", "answer NLL")
        for method in METHODS
        for length in (1024, 4096)
    ]
    figure = picture(points, monkeypatch, tmp_path)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == METHODS
    whole = figure.bbox
    assert legend.get_window_extent().width <= whole.width
    for axis in figure.axes:
        room = axis.get_window_extent()
        assert room.height > 2 * figure.dpi and not axis.get_legend()
        assert not room.overlaps(legend.get_window_extent())


def test_a_column_of_thirty_lines_leaves_its_panels_their_room(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    points = [
        Point(panel, "m", method, length, 50.0, 22, 40.0, 60.0)
        for panel in ("found, %", "score")
        for method in METHODS
        for length in (1024, 4096)
    ]
    figure = picture(points, monkeypatch, tmp_path, pictures.draw_grid, lambda p: "all", ["all"])
    for axis in figure.axes:
        assert axis.get_window_extent().height > 1.5 * figure.dpi
    (legend,) = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert legend.get_window_extent().y0 >= 0


def test_points_of_one_length_stand_apart_with_their_intervals(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    values = {"full": (90.0, 80.0, 95.0), "a": (90.0, 70.0, 99.0), "b": (40.0, 20.0, 60.0)}
    points = [Point("score", "m", m, 2048, v, 20, lo, hi) for m, (v, lo, hi) in values.items()]
    points += [Point("score of some", "m", "full", 2048, 55.0, 3)]  # too few for an interval
    score, some = picture(points, monkeypatch, tmp_path).axes
    dots = {line.get_label(): line for line in score.lines if line.get_marker() == "o"}
    assert {name: line.get_ydata()[0] for name, line in dots.items()} == {
        name: value for name, (value, _, _) in values.items()
    }
    places = [line.get_xdata()[0] for line in dots.values()]
    low, high = score.get_xlim()
    assert low < places[0] < places[1] < places[2] < high
    bars = [tuple(line.get_ydata()) for line in score.lines if line.get_marker() != "o"]
    assert bars == [(low, high) for _, low, high in values.values()]
    assert [line.get_ydata()[0] for line in some.lines] == [55.0]

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


def test_families_show_intervals_where_there_is_no_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of one length side by side, the first family's in grey among them; a single point beside
    lines at its place."""
    points = [
        Point("score", "m", method, 2048, 50.0, 20, 40.0, 60.0) for method in ("full", "a", "b")
    ]
    points += [
        Point("found", "m", method, length, 50.0, 20, 30.0, 70.0)
        for method, length in [
            ("full", 1024),
            ("full", 2048),
            ("a", 1024),
            ("a", 2048),
            ("b", 2048),
        ]
    ]
    kinds = {"full": "whole", "a": "part", "b": "part"}
    figure = picture(
        points, monkeypatch, tmp_path, pictures.draw_grid,
        lambda p: kinds[p.method], ["whole", "part"],
    )  # fmt: skip
    _, score, _, found = figure.axes
    bars = [line for line in score.lines if line.get_marker() != "o"]
    assert [tuple(line.get_ydata()) for line in bars] == [(40, 60)] * 3
    assert [line.get_color() for line in bars] == ["0.6", "C0", "C1"]
    assert len({line.get_xdata()[0] for line in bars}) == 3
    (bar,) = [line for line in found.lines if list(line.get_ydata()) == [30, 70]]
    assert list(bar.get_xdata()) == [2048, 2048] and bar.get_color() == "C1"

"""Logarithmic axes: their numbers are plain, and can be read."""

from __future__ import annotations

import itertools

import pytest

from reattention_eval.pictures import logarithmic


@pytest.mark.parametrize(
    ("values", "some"),
    [
        ([18, 80], {"20", "30", "70"}),
        ([0.2, 125], {"0.2", "0.5", "1", "100"}),
        ([0.6, 9], {"1", "5"}),
        ([0.0001, 900], {"0.001", "1", "100"}),
        ([7, 7], set()),
    ],
)
def test_no_two_numbers_of_an_axis_lie_on_each_other(values: list[float], some: set[str]) -> None:
    """In a panel of the size that reports draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.plot(range(len(values)), values)
    logarithmic(axis)
    canvas.draw()
    low, high = axis.get_ylim()
    numbers = [*axis.get_yticklabels(), *axis.get_yticklabels(minor=True)]
    seen = [n for n in numbers if n.get_text() and low <= n.get_position()[1] <= high]
    assert some <= {number.get_text() for number in seen}
    boxes = [number.get_window_extent() for number in seen]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))

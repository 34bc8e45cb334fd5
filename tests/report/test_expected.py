"""What a run was begun for and never ran is missing in its own place, not under a strange head."""

from __future__ import annotations

import json

import pytest
from needle_run import Run, expected
from runs_by_hand import write

from reattention_eval.errors import DataError
from reattention_eval.report.expected import note_expected
from reattention_eval.report.families import family
from reattention_eval.report.frame import make_frame
from reattention_eval.report.places import places
from reattention_eval.report.run import read_run
from reattention_eval.report.tables import grids

NEEDLE = {"benchmark": "needle", "task": "magic_number", "length": 32768}
MODELS = ("m-full", "m-reattention")


def test_a_length_that_nobody_ran_has_its_column(whole: Run) -> None:
    cells = [*expected(whole), *[(model, "needle-32768") for model in MODELS]]
    note_expected(whole.folder, cells, {"needle-32768": NEEDLE})
    head, rows = grids(make_frame(read_run(whole.folder)))["accuracy, %"]
    assert head == ["method", "4,096", "12,288", "32,768"]
    assert [row[-1] for row in rows] == ["missing", "missing"]


def test_what_is_asked_is_known_before_anything_ran(whole: Run) -> None:
    vt = {"benchmark": "ruler", "task": "vt", "group": "tracing", "length": 4096}
    cells = [*expected(whole), ("m-full", "ruler-vt-4096")]
    note_expected(whole.folder, cells, {"ruler-vt-4096": vt})
    found = read_run(whole.folder)
    assert places(found)["ruler-vt-4096"].sheet == ("ruler", 4096)
    # what really ran is told by its manifest
    assert found[0].facts["n"] == 3


def test_a_later_command_keeps_what_is_known_of_datasets(whole: Run) -> None:
    note_expected(whole.folder, [("m-full", "needle-32768")], {"needle-32768": NEEDLE})
    note_expected(whole.folder, [("m-reattention", "needle-32768")])
    (cell,) = read_run(whole.folder, [("m-reattention", "needle-32768")])
    assert cell.facts == NEEDLE and not cell.manifest


@pytest.mark.parametrize("about", [[1], {"d": 1}, {"d": {"length": "long"}}])
def test_a_damaged_list_is_one_sentence(whole: Run, about: object) -> None:
    path = whole.path("report", "expected.json")
    write(path, {"cells": [], "datasets": about})
    with pytest.raises(DataError, match="Delete it"):
        read_run(whole.folder)
    note_expected(whole.folder, expected(whole))  # begun again: no reason to stop
    assert json.loads(path.read_text())["cells"]


def test_a_model_that_never_ran_is_called_by_its_method(whole: Run) -> None:
    method = {"name": "quest", "family": "selection", "budget": 2048, "settings": {}}
    models = {"m-quest-2048-ab": {"model": {"name": "Tiny"}, "method": method}}
    cells = [*expected(whole), ("m-quest-2048-ab", "needle-4096")]
    note_expected(whole.folder, cells, {}, models)
    frame = make_frame(read_run(whole.folder))
    assert [row.method for row in frame.rows] == ["full", "reattention 4,096", "quest 2,048"]
    assert family(frame.rows[-1].cells["needle-4096"]) == "selection"


def test_a_row_is_called_alike_whichever_of_its_datasets_ran(whole: Run) -> None:
    first = [(model, "needle-2048") for model in MODELS]
    frame = make_frame(read_run(whole.folder, [*first, *expected(whole)]))
    assert [row.method for row in frame.rows] == ["full", "reattention 4,096"]


@pytest.mark.parametrize(("depths", "said"), [([10, 50, 90], "3 depths"), ([50], "1 depth")])
def test_two_datasets_of_one_length_are_told_apart_by_what_is_asked(
    whole: Run, depths: list[int], said: str
) -> None:
    few = {"max_out_len": 16, **NEEDLE, "depths": depths, "repeats": 1}
    # a run's manifest says more than what is noted before it
    many = {**NEEDLE, "depths": [0, 10, 50, 90, 100], "repeats": 1}
    about = {"needle-32768-aa": few, "needle-32768-bb": many}
    cells = [*expected(whole), *[("m-full", name) for name in about]]
    note_expected(whole.folder, cells, about)
    head, _ = grids(make_frame(read_run(whole.folder)))["accuracy, %"]
    assert head[1:] == ["4,096", "12,288", f"32,768, {said}", "32,768, 5 depths"]

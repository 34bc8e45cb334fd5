"""Score against length, of files written by hand: the tables' figures, or a sentence."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from needle_run import Run
from runs_by_hand import leave_cell
from typer.testing import CliRunner

from reattention_eval.cli import app
from reattention_eval.report import build_report
from reattention_eval.report.curve import pictures

FOUND, ROOM = "One needle in a haystack, magic_number: found, %", "magic_number"


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "save_picture", lambda figure, path, dpi: None)


def needles(folder: Path, accuracies: list[float], length: int = 4096, **facts: Any) -> None:
    details = [{"accuracy": a, "length": length, "depth": 0.0} for a in accuracies]
    about = {"benchmark": "needle", "task": ROOM, "length": length, **facts}
    result = {"accuracy": sum(accuracies) / len(accuracies), "n": len(accuracies)}
    leave_cell(folder, "full", f"needle-{length}", details, facts=about, result=result)


def drawn(*runs: Path, problem: str = "") -> list[dict[str, str]]:
    out = runs[0] / "curve"
    done = CliRunner().invoke(app, ["curve", *map(str, runs), "--out", str(out)])
    assert done.exit_code == bool(problem) and problem in done.output, done.output
    return list(csv.DictReader((out / "curve.csv").open()))


def test_runs_that_asked_otherwise_are_lines_of_their_own(tmp_path: Path) -> None:
    needles(tmp_path / "a", [100.0, 0.0], seed=0)
    needles(tmp_path / "b", [0.0, 0.0], seed=1)
    needles(tmp_path / "b", [0.0, 0.0], length=8192, seed=1)
    found = [
        (p["method"], p["length"], float(p["value"])) for p in drawn(*map(tmp_path.joinpath, "ab"))
    ]
    assert sorted(found) == [
        ("full (seed=0, run=a)", "4096", 50.0),
        ("full (seed=1, run=b)", "4096", 0.0),
        ("full (seed=1, run=b)", "8192", 0.0),
    ]


def test_what_two_runs_asked_alike_is_there_once(tmp_path: Path) -> None:
    needles(tmp_path / "a", [100.0, 0.0])
    needles(tmp_path / "b", [100.0, 0.0])
    assert len(drawn(*map(tmp_path.joinpath, "ab"))) == 1
    twice = [str(tmp_path / "a")] * 2
    done = CliRunner().invoke(app, ["curve", *twice, "--out", str(tmp_path / "c")])
    assert done.exit_code == 2 and "was given twice" in done.output


def test_needles_of_one_prompt_are_one_sample_as_in_the_table(tmp_path: Path) -> None:
    details = [
        {"accuracy": a, "score": a, "length": 4096, "depth": 10.0 * i, "repeat": repeat}
        for repeat, hits in enumerate(((100.0, 0.0, 100.0), (0.0, 0.0, 100.0)))
        for i, a in enumerate(hits)
    ]
    leave_cell(
        tmp_path, "full", "needle-4096", details, result={"score": 50.0, "n": 2},
        facts={"benchmark": "needle", "task": "parallel", "length": 4096, "n": 2},
        records=[{"index": i, "prediction": "7"} for i in range(2)],
    )  # fmt: skip
    (figure,) = build_report(tmp_path).figures.figures
    (point,) = drawn(tmp_path)
    assert figure.interval is not None and point["n"] == "2"
    assert float(point["low"]) == pytest.approx(figure.interval.low, rel=1e-5)
    assert float(point["high"]) == pytest.approx(figure.interval.high, rel=1e-5)


@pytest.mark.parametrize("odd", [math.nan, 250.0, -50.0])
def test_a_damaged_sample_ends_no_picture(whole: Run, odd: float) -> None:
    for manifest in whole.folder.glob("records/*/*.manifest.json"):
        told = json.loads(manifest.read_text())
        told["dataset"] |= {"benchmark": "needle", "task": ROOM}
        manifest.write_text(json.dumps(told))
    path = whole.path("results", "m-reattention", "needle-12288.json")
    result = json.loads(path.read_text())
    result["details"][0]["accuracy"] = odd
    path.write_text(json.dumps(result))
    found = {(p["method"], p["length"]): p for p in drawn(whole.folder) if p["panel"] == FOUND}
    assert len(found) == 4
    damaged = found["reattention 4,096", "12288"]  # nothing says how sure the figure is
    assert (float(damaged["value"]), damaged["low"], damaged["high"]) == (50.0, "", "")


@pytest.mark.parametrize("command", ["curve", "answers"])
def test_a_figure_of_a_part_of_the_samples_is_said(tmp_path: Path, command: str) -> None:
    needles(tmp_path, [100.0, 0.0])
    (manifest,) = tmp_path.glob("records/*/*.manifest.json")
    told = json.loads(manifest.read_text())
    told["dataset"]["n"] = 4
    manifest.write_text(json.dumps(told))
    words = [command, str(tmp_path), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and (tmp_path / "out").exists()
    assert "2 samples were scored where 4 were asked" in done.output
    assert "its predictions file holds 2 of 4 samples" in done.output


@pytest.mark.parametrize("score", ["x", None, [1.0], math.nan])
def test_a_score_that_is_no_number_is_no_point(tmp_path: Path, score: Any) -> None:
    for length, own in ((4096, 50.0), (8192, score)):
        leave_cell(
            tmp_path, "full", f"ruler-vt-{length}", [{"score": 50.0}],
            result={"score": own, "n": 1},
            facts={"benchmark": "ruler", "task": "vt", "length": length},
        )  # fmt: skip
    problem = "is not a number (NaN)" if isinstance(score, float) else "result holds no figure"
    found = [(p["length"], p["value"]) for p in drawn(tmp_path, problem=problem)]
    assert found == [("4096", "50")]


@pytest.mark.parametrize("entry", [1, None, "x"])
def test_answers_of_a_damaged_file_are_shown_as_far_as_they_go(whole: Run, entry: Any) -> None:
    predictions = whole.path("predictions", "m-full", "needle-4096.json")
    predictions.write_text(json.dumps({"0": entry}))
    path = whole.path("results", "m-full", "needle-4096.json")
    result = json.loads(path.read_text())
    result["details"][0] |= {"n_tokens": "many", "reference": 7, "prediction": 8}
    path.write_text(json.dumps(result))
    page = whole.folder / "answers.md"
    done = CliRunner().invoke(app, ["answers", str(whole.folder), "--out", str(page)])
    assert done.exit_code == 1 and "its predictions file lacks sample 0" in done.output
    assert "Sample 0. The prompt" in page.read_text()
    assert "Right: 7" in page.read_text() and "| 100.0 | 8 |" in page.read_text()

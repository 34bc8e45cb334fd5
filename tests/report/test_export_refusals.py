"""What no export may hold: an answer beside another one's score, a figure without its problem."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from written_run import FULL, OURS, write_cell

from reattention_eval.cli import app
from reattention_eval.report.problems import find_problems
from reattention_eval.report.run import read_run

ANSWERS = ["Paris", "Rome", "Oslo"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_cell(tmp_path / "run", FULL, ANSWERS)
    write_cell(tmp_path / "run", OURS, ["Paris"] * 3)
    return tmp_path / "run"


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Every object of a file, each on a line of its own or one alone."""
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    told = [json.loads(line) for line in lines]
    for one in told:
        change(one)
    path.write_text("".join(json.dumps(one) + "\n" for one in told))


STALE: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "1 of 3 samples were scored by other answers than their records hold (sample 1)": (
        "records", lambda r: r.update(prediction="Bern" if r["index"] == 1 else r["prediction"]),
    ),
    "3 of 3 samples were scored by other answers than their records hold (sample 0)": (
        "records", lambda r: r.update(answer_nll=r["answer_nll"] + 1e-9),
    ),
    "2 samples were scored where 3 were asked": (
        "results", lambda r: r.update(n=2, details=r["details"][:2]),
    ),
    "4 samples were scored where 3 were asked": ("results", lambda r: r.update(n=4)),
    "sample 2 failed (ValueError: no room), and the result that is there counts it": (
        "records", lambda r: r["index"] == 2 and r.update(error="ValueError: no room"),
    ),
    "its predictions file holds 2 of 3 samples": ("predictions", lambda r: r.pop("2")),
}  # fmt: skip


@pytest.mark.parametrize("form", ["inspect", "lm-eval"])
@pytest.mark.parametrize(("said", "what"), STALE.items())
def test_no_answer_stands_beside_an_earlier_ones_score(
    tmp_path: Path, form: str, said: str, what: tuple[str, Callable[[dict[str, Any]], Any]]
) -> None:
    room, change = what
    model, dataset = write_cell(tmp_path / "run", FULL, ANSWERS, nll=[0.25, 1.0, 2.0])
    changed(tmp_path / "run" / "results" / model / f"{dataset}.json", _with_likelihoods)
    out = tmp_path / "out"
    words = ["export", form, str(tmp_path / "run"), "--out", str(out)]
    assert CliRunner().invoke(app, words).exit_code == 0
    shutil.rmtree(out)
    ends = {"records": "jsonl", "results": "json", "predictions": "json"}
    changed(tmp_path / "run" / room / model / f"{dataset}.{ends[room]}", change)
    alone = CliRunner().invoke(app, words)
    assert alone.exit_code == 2 and f"{model} on {dataset}: {said}" in alone.output
    assert not out.exists()
    write_cell(tmp_path / "run", OURS, ["Paris"] * 3)
    if "scored" in said:
        assert any(said in problem for problem in find_problems(read_run(tmp_path / "run")))
    beside = CliRunner().invoke(app, words)
    assert beside.exit_code == 1 and f"not exported: {model} on {dataset}: {said}" in beside.output
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) == (1 if form == "inspect" else 2)
    assert all("tiny-full" not in str(path) for path in files)


def _with_likelihoods(result: dict[str, Any]) -> None:
    for detail, nll in zip(result["details"], (0.25, 1.0, 2.0), strict=True):
        detail["answer_nll"] = nll


@pytest.mark.parametrize("form", ["inspect", "lm-eval"])
def test_an_answer_without_a_record_is_held_against_its_score_too(run: Path, form: str) -> None:
    (records,) = run.glob("records/tiny-full/*.jsonl")
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:2]))
    result = CliRunner().invoke(app, ["export", form, str(run)])
    assert result.exit_code == 1 and "1 of 3 predictions have no readable record" in result.output
    (predictions,) = run.glob("predictions/tiny-full/*.json")
    changed(predictions, lambda entries: entries["2"].update(prediction="Bern"))
    result = CliRunner().invoke(app, ["export", form, str(run)])
    assert result.exit_code == 1 and "1 of 3 samples were scored by other answers" in result.output


@pytest.mark.parametrize("form", ["inspect", "lm-eval"])
def test_what_a_report_says_of_a_figure_an_export_says_too(run: Path, form: str) -> None:
    (records,) = run.glob("records/tiny-reattention/*.jsonl")
    changed(records, lambda record: record.update(layer_steps_selected=0))
    result = CliRunner().invoke(app, ["export", form, str(run)])
    assert result.exit_code == 1 and "this was full attention" in result.output

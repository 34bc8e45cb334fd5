"""A predictions file that is there and not whole is not done, in no command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner
from written_run import FULL, OURS, write_cell

from reattention_eval.cli import app
from reattention_eval.errors import ConfigError
from reattention_eval.report.check import check_run
from reattention_eval.report.compare import compare_runs
from reattention_eval.report.problems import find_problems
from reattention_eval.report.progress import run_progress
from reattention_eval.report.run import read_run

ANSWERS = ["Paris", "Rome", "Paris"]
ENTRY = '{"prediction": "x"}'
DAMAGED = {
    "": "is empty",
    "{}": "is empty",
    "[]": "is damaged (it holds a list, not an object with names)",
    "\0": "is damaged",
    f'{{"0": {ENTRY}, "1": {ENTRY}}}': "holds 2 of 3 samples",
    f'{{"0": {ENTRY}, "1": {ENTRY}, "2": {ENTRY}, "3": {ENTRY}}}': "holds 4 of 3 samples",
    f'{{"0": {ENTRY}, "1": {ENTRY}, "3": {ENTRY}}}': "lacks sample 2",
    f'{{"0": {ENTRY}, "1": null, "2": {ENTRY}}}': "lacks sample 1",
}


@pytest.fixture
def unscored(tmp_path: Path) -> Path:
    """Three samples that are done; the path of their predictions file."""
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    (tmp_path / "results" / model / f"{dataset}.json").unlink()
    return tmp_path / "predictions" / model / f"{dataset}.json"


@pytest.mark.parametrize(("text", "said"), DAMAGED.items())
def test_what_is_not_whole_is_said_by_every_command(unscored: Path, text: str, said: str) -> None:
    run = unscored.parents[2]
    write_cell(run, OURS, ANSWERS)
    unscored.write_text(text)
    states = {task.model: (task.state, task.where) for task in run_progress(run)}
    assert states["tiny-reattention"] == ("done", "")
    state, where = states["tiny-full"]
    assert state == "failed" and f"its predictions file {said}" in where
    (problem,) = find_problems(read_run(run))
    assert problem.startswith(f"tiny-full on {unscored.stem}: its predictions file {said}")
    assert "delete it and run the same command again with `-r`" in problem
    (problem,) = check_run(run).problems
    assert f"its predictions file {said}" in problem
    with pytest.raises(ConfigError) as refused:
        compare_runs(run, run, "full", "reattention")
    assert f"A's predictions file {said}" in str(refused.value)
    result = CliRunner().invoke(app, ["report", str(run)], env={"COLUMNS": "200"})
    assert result.exit_code == 1 and " failed " in result.output
    result = CliRunner().invoke(app, ["status", str(run)], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "2 tasks: 1 done, 1 failed; 6 samples done" in result.output


def test_done_is_what_json_says(unscored: Path) -> None:
    """Of a file cut anywhere, by Python's own reader."""
    whole, run = unscored.read_bytes(), unscored.parents[2]
    for end in {*range(0, len(whole), 9), *range(len(whole) - 20, len(whole) + 1)}:
        unscored.write_bytes(whole[:end])
        try:
            entries = json.loads(whole[:end])
        except ValueError:
            entries = {}
        (task,) = run_progress(run)
        assert (task.state == "done") == (len(entries) == 3), whole[:end]


@pytest.mark.parametrize(("lost", "state"), [((), "done"), ((2,), "failed"), ((0, 1, 2), "failed")])
def test_predictions_without_records_are_not_done(
    unscored: Path, lost: tuple[int, ...], state: str
) -> None:
    run = unscored.parents[2]
    (records,) = run.glob("records/*/*.jsonl")
    lines = records.read_text().splitlines(keepends=True)
    records.write_text("".join(line for i, line in enumerate(lines) if i not in lost))
    (task,) = run_progress(run)
    assert task.state == state
    words = f"{len(lost)} of 3 predictions have no readable record" if lost else ""
    assert words in task.where
    assert any(words in problem for problem in find_problems(read_run(run)))


def test_of_other_models_there_are_predictions_alone(tmp_path: Path) -> None:
    path = tmp_path / "predictions" / "internlm2-chat-7b" / "rows.json"
    path.parent.mkdir(parents=True)
    for text, state in ((f'{{"0": {ENTRY}}}', "done"), ("{}", "failed"), ("", "failed")):
        path.write_text(text)
        (task,) = run_progress(tmp_path)
        assert task.state == state

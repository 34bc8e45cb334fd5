"""What a run leaves while it goes and when done, as status, check, compare and export see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reattention_eval.cli import app
from reattention_eval.harness import PromptRunner
from reattention_eval.harness.partition import WorkerPartitioner
from reattention_eval.harness.standalone import main
from reattention_eval.report.check import check_run
from reattention_eval.report.progress import TaskProgress, run_progress
from reattention_eval.report.run import read_run
from reattention_eval.report.schema import ANSWERED, COMMON

METHODS = """
methods = [
    dict(type="full"),
    dict(type="streaming_llm", sink_size=16, window_size=496, chunk_size=64),
]
"""


def test_a_run_as_its_readers_see_it(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods.py").write_text(METHODS)
    work = tmp_path / "work"
    words = [
        "--model", str(checkpoint), "--methods", str(tmp_path / "methods.py"),
        "--haystack", str(haystack), "--lengths", "700", "--depths", "0", "90",
        "--repeats", "2", "--work-dir", str(work),
    ]  # fmt: skip
    seen: list[list[TaskProgress]] = []
    whole = PromptRunner.run

    def watched(self: PromptRunner, *call: Any, **named: Any) -> Any:
        seen.append(run_progress(work))
        return whole(self, *call, **named)

    monkeypatch.setattr(PromptRunner, "run", watched)
    assert main(words) == 0

    # from outside, before each of the eight samples
    assert [[(t.state, t.pace.done) for t in tasks] for tasks in seen[:5]] == [
        [("running", 0), ("waiting", 0)], [("running", 1), ("waiting", 0)],
        [("running", 2), ("waiting", 0)], [("running", 3), ("waiting", 0)],
        [("done", 4), ("running", 0)],
    ]  # fmt: skip
    under_way = seen[3][0].pace
    assert under_way.total == 4 and (under_way.tokens_per_second or 0) > 0
    assert (under_way.ends() or 0) > (under_way.last or 0)
    assert not list(work.glob("records/*/*.running.json"))

    # afterwards
    tasks = run_progress(work)
    assert [task.state for task in tasks] == ["done", "done"]
    for task, cell in zip(tasks, read_run(work), strict=True):
        assert task.pace.mean_score == pytest.approx(cell.result["accuracy"])
    found = check_run(work)
    assert found.problems == [] and found.versions == {2: 8}
    written = {name for cell in read_run(work) for r in cell.records.values() for name in r}
    assert written <= COMMON.keys() | ANSWERED.keys(), "docs/records.md lacks a field"
    file = tmp_path / "compared.json"
    for command in (
        ["compare", work, work, "--a", "full", "--b", "streaming", "--json", file],
        ["export", "inspect", work], ["export", "lm-eval", work], ["report", work, "--check"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, list(map(str, command)))
        assert result.exit_code == 0, result.output
    (task,) = json.loads(file.read_text())["tasks"]
    full, streaming = read_run(work)
    nll = next(d for d in task["differences"] if d["metric"] == "answer_nll")
    assert nll["difference"] == pytest.approx(
        streaming.result["answer_nll"] - full.result["answer_nll"]
    )
    assert len(list(work.glob("export/inspect/*.eval"))) == 2
    assert len(list(work.glob("export/lm-eval/*/results_*.json"))) == 2


def test_opencompass_notes_what_a_run_is_to_consist_of(tmp_path: Path) -> None:
    groups = [
        {"models": [{"abbr": "m"}, {"abbr": "n"}], "datasets": [{"abbr": "a"}, {"abbr": "b"}]}
    ]
    work, predictions = tmp_path / "run", tmp_path / "run" / "predictions"
    (predictions / "m").mkdir(parents=True)
    (predictions / "m" / "a.json").write_text('{"0": {}}')
    WorkerPartitioner(str(predictions)).partition(groups, str(work), str(predictions))
    assert [(t.model, t.dataset, t.state) for t in run_progress(work)] == [
        ("m", "a", "done"), ("m", "b", "waiting"), ("n", "a", "waiting"), ("n", "b", "waiting"),
    ]  # fmt: skip

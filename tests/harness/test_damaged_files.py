"""A file that something outside damaged is no result: its cell is run or scored again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from opencompass.registry import PARTITIONERS

from reattention_eval.harness.compose import plan_jobs
from reattention_eval.harness.done import is_done, set_aside
from reattention_eval.harness.job_runs import JobRuns
from reattention_eval.harness.partition import WorkerPartitioner
from reattention_eval.harness.runners import local_sections
from reattention_eval.harness.slurm_jobs import jobs
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask

DAMAGED = {
    "empty": b"",
    "cut off": b'{"0": {"prediction": "fo',
    "zeros of a crash": bytes(4096),
    "no object": b"[]",
    "no text": b'{"0": "\xff"}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_what_is_no_json_is_not_done(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, log = tmp_path / "a.json", logging.getLogger("test")
    assert not is_done(path, log)
    set_aside(path, log)
    assert not caplog.messages and not list(tmp_path.iterdir())
    path.write_bytes(content)
    assert not is_done(path) and not caplog.messages
    assert not is_done(path, log)
    (said,) = caplog.messages
    assert str(path) in said and "counts as not done" in said and "\n" not in said
    set_aside(path, log)
    assert not path.exists() and (tmp_path / "a.json.damaged").read_bytes() == content
    path.write_text('{"accuracy": 50.0}')
    set_aside(path, log)
    assert is_done(path, log) and len(caplog.messages) == 2


def test_what_cannot_be_read_now_may_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(path: Path) -> bytes:
        raise OSError(116, "Stale file handle")

    path = tmp_path / "a.json"
    path.write_text("{}")
    monkeypatch.setattr(Path, "read_bytes", stale)
    assert is_done(path)
    set_aside(path, logging.getLogger())
    assert path.is_file()


@pytest.mark.parametrize("kind", ["results", "predictions"])
def test_processes_that_share_a_run_make_it_again(
    kind: str,
    checkpoint: Path,
    haystack: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def share() -> None:
        runs = JobRuns(tmp_path)
        runs.share_all(cells)
        runs.close()
        assert not runs.failed

    plan = dict(
        benchmark="needle", lengths=[450, 500], depths=[0], repeats=1, haystack=str(haystack)
    )
    cells = plan_jobs([dict(path=str(checkpoint))], [dict(type="full")], [plan])
    share()
    files = {path: path.read_bytes() for path in tmp_path.glob("[pr]*/*/*.json*")}
    files = {path: content for path, content in files.items() if content}  # no locks
    result, other = (path for path in files if path.parent.parent.name == kind)
    result.write_bytes(files[result][:40])
    stamp = other.stat().st_mtime_ns
    share()
    assert {path: path.read_bytes() for path in files} == files  # no sample ran again
    assert other.stat().st_mtime_ns == stamp
    assert sum(str(result) in line for line in caplog.messages) == 1


def test_tasks_and_jobs_have_what_is_damaged(tmp_path: Path) -> None:
    whole, cut = tmp_path / "predictions" / "m" / "a.json", tmp_path / "predictions/m/b.json"
    whole.parent.mkdir(parents=True)
    whole.write_text('{"0": {}}')
    cut.write_text('{"0": {')
    group = {"models": [{"abbr": "m"}], "datasets": [{"abbr": name} for name in "abc"]}
    (task,) = WorkerPartitioner(str(whole.parents[1])).partition(
        [group], str(tmp_path), str(whole.parents[1])
    )
    assert [dataset.abbr for dataset in task.datasets[0]] == ["b", "c"]
    (array,) = jobs(Config({**group, "work_dir": str(tmp_path)}))
    assert array.done == [True, False, False]
    assert cut.is_file()  # nobody moved it who does not make it again


def test_opencompass_makes_and_scores_it_again(task_config: Callable[..., Any]) -> None:
    rows = [{"prompt": "the dog and the", "answer": "fox"}] * 2
    config = task_config(rows)
    work = Path(config.work_dir)

    def score() -> list[str]:
        """Datasets of the evaluation's task, which is run."""
        section = {**local_sections()["eval"]["partitioner"], "out_dir": str(work / "results")}
        groups = [{"models": config.models, "datasets": config.datasets[0]}]
        tasks = PARTITIONERS.build(section).partition(groups, str(work), str(work / "results"))
        for task in tasks:
            LongContextEvalTask(task).run()
        return [dataset.abbr for task in tasks for dataset in task.datasets[0]]

    LongContextInferTask(config).run()
    assert score() == ["rows"] and score() == []
    files = {path: path.read_bytes() for path in work.glob("*/tiny/rows.json*")}
    predictions, result = (
        work / kind / "tiny" / "rows.json" for kind in ("predictions", "results")
    )
    assert len(files) == 3
    for damaged in (predictions, result):
        damaged.write_bytes(files[damaged][:20])
    LongContextInferTask(config).run()
    assert score() == ["rows"] and score() == []
    assert {path: path.read_bytes() for path in files} == files
    assert json.loads(result.read_text())

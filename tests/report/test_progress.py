"""How far a run is: from its files, live, and where what runs it runs."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from runs_by_hand import answers
from typer.testing import CliRunner
from written_run import FULL, OURS, put, write_cell

from reattention_eval.cli import app
from reattention_eval.harness import live_progress
from reattention_eval.harness.live_progress import LiveProgress
from reattention_eval.harness.running_mark import running
from reattention_eval.report.expected import note_expected
from reattention_eval.report.pace import Pace, clock
from reattention_eval.report.progress import is_running, progress_line, run_progress
from reattention_eval.report.running_score import scorer_of

HERE = socket.gethostname()


def record(i: int, **other: Any) -> dict[str, Any]:
    return {
        "index": i, "prediction": "Paris", "gold": "Paris", "n_tokens": 1000, "new_tokens": 10,
        "reused_tokens": 400, "finished": 1000.0 + 5 * i, "seconds": 5.0, "peak_bytes": i * 2**30,
        **other,
    }  # fmt: skip


def states(run: Path) -> dict[tuple[str, str], str]:
    return {(t.model, t.dataset.split("-")[1]): t.state for t in run_progress(run)}


@pytest.fixture
def half(tmp_path: Path) -> Path:
    """Two of three samples of one dataset are done, and nobody writes."""
    write_cell(tmp_path, FULL, ["Paris", "Rome", "Paris"])
    next(tmp_path.glob("predictions/tiny-full/*")).unlink()
    next(tmp_path.glob("results/tiny-full/*")).unlink()
    path = next(tmp_path.glob("records/tiny-full/*.jsonl"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    return tmp_path


def mark(run: Path, **facts: Any) -> Path:
    path = next(run.glob("records/tiny-full/*.jsonl")).with_suffix(".running.json")
    put(path, {"host": HERE, "pid": os.getpid(), "slurm_job": None, "since": time.time(), **facts})
    return path


def test_pace_and_when_it_ends() -> None:
    pace = Pace(10, scorer_of({"benchmark": "longbench", "task": "qasper"}), gpu=True)
    pace.add([record(1), record(2, prediction="Rome"), record(3, error="E: x"), record(4)])
    # 600 tokens read and 10 written in 5 s each; seven samples are left, 35 s behind the last
    assert (pace.done, pace.failed, pace.tokens_per_second) == (3, 1, 122.0)
    assert pace.mean_score == pytest.approx(200 / 3)
    assert pace.last == 1020.0
    assert pace.ends(1020.0) == pytest.approx(1020.0 + 6 * 5)
    assert pace.ends(1023.0) == pytest.approx(1020.0 + 6 * 5)  # one is under way
    assert pace.ends(1100.0) == pytest.approx(1100.0 + 5 * 5)  # and it takes longer
    words = pace.words()
    assert words.startswith("3 of 10 prompts, 1 failed, 122 tokens/s, score 66.7, ends ")
    assert words.endswith("GPU memory 4.0 GiB")
    assert Pace(None).words() == "0 of ? prompts"


def test_a_batch_is_not_counted_twice() -> None:
    pace = Pace(2)
    old = {"prefill_seconds": 6.0, "decode_seconds": 2.0, "batch_size": 2, "seconds": None}
    pace.add([record(0, **old), record(1, **old)])
    assert pace.tokens_per_second == pytest.approx(2 * 610 / 8)


@pytest.mark.parametrize(
    ("facts", "gold", "figure"),
    [
        ({"benchmark": "needle", "task": "magic_number"}, "Paris", ("accuracy", 100.0)),
        ({"benchmark": "longbench", "task": "qasper"}, ["Paris"], ("score", 100.0)),
        ({"benchmark": "ruler", "task": "vt"}, ["Par", "Rome"], ("score", 50.0)),
    ],
)
def test_running_scores_are_the_official_ones(facts: Any, gold: Any, figure: Any) -> None:
    scorer = scorer_of(facts)
    assert scorer is not None
    if facts["benchmark"] == "longbench":
        gold = {"answers": gold, "all_classes": None}
    assert scorer({"prediction": "Paris", "gold": gold}) == figure
    assert scorer({"value": 0.5}) is None


def test_the_likelihood_is_the_score_of_perplexity() -> None:
    pace = Pace(4, scorer_of({"benchmark": "perplexity", "task": "by_position"}))
    pace.add([{"answer_nll": 2.0, "seconds": 1.0}, {"answer_nll": 3.0, "seconds": 1.0}])
    assert "answer_nll 2.500" in pace.words()


def test_what_has_no_running_score() -> None:
    path = {"benchmark": "reattention_eval.benchmarks.ruler.RULER", "task": "vt"}
    for facts in ({}, {"benchmark": "leval", "task": "sci_fi"}, {"benchmark": "x"}, path):
        assert scorer_of(facts) is None


def test_states(half: Path) -> None:
    write_cell(half, OURS, ["Paris"])
    write_cell(half, OURS, ["Paris"], task="musique", errors={0: "E: x"})
    cells = [*states_names(half), ("tiny-ours", "longbench-later-1-0")]
    note_expected(half, cells)
    assert states(half) == {
        ("tiny-full", "qasper"): "stopped", ("tiny-reattention", "qasper"): "done",
        ("tiny-reattention", "musique"): "failed", ("tiny-ours", "later"): "waiting",
    }  # fmt: skip
    path = mark(half)
    assert states(half)["tiny-full", "qasper"] == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mark(half, pid=gone.pid)
    assert states(half)["tiny-full", "qasper"] == "stopped"
    path.write_text("{")  # being written
    assert states(half)["tiny-full", "qasper"] == "stopped"
    result = CliRunner().invoke(app, ["status", str(half)], env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    assert "4 tasks: 1 done, 1 failed, 1 stopped, 1 waiting; 3 samples done" in result.output
    assert "2 / 3" in result.output and "score 50.0" in result.output
    log = half / "logs" / "infer" / "tiny-ours" / "longbench-first-1-0.out"
    log.parent.mkdir(parents=True)
    log.write_text("error: kvpress is not installed\n")
    assert states(half)["tiny-ours", "later"] == "failed"
    result = CliRunner().invoke(app, ["status", str(half)], env={"COLUMNS": "250"})
    assert "tiny-ours on longbench-later-1-0: kvpress is not installed" in result.output


def states_names(run: Path) -> list[tuple[str, str]]:
    return [(task.model, task.dataset) for task in run_progress(run)]


def test_another_machine_is_judged_by_its_silence(half: Path) -> None:
    mark(half, host="elsewhere", pid=1)
    (task,) = run_progress(half)
    assert (task.state, task.where) == ("running", "process 1 on elsewhere")
    path = mark(half, host="elsewhere", pid=1, since=time.time() - 7200)
    records = path.with_name(path.name.replace(".running.json", ".jsonl"))
    os.utime(records, (time.time() - 7200,) * 2)
    (task,) = run_progress(half)
    assert task.state == "stopped" and "silent for 120 minutes" in task.where


@pytest.mark.parametrize(
    ("answer", "status", "state"),
    [("RUNNING", 0, "running"), ("", 0, "stopped"), ("Invalid job id", 1, "stopped")],
)
def test_slurm_is_asked(
    half: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    status: int,
    state: str,
) -> None:
    stand_in = tmp_path / "bin" / "squeue"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\n[ "$2" = --jobs=77_3 ] || exit 9\necho "{answer}" >&$((1 + {status}))\n'
        f"exit {status}\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}{os.pathsep}{os.environ['PATH']}")
    mark(half, host="node9", slurm_job="77_3")
    (task,) = run_progress(half)
    assert task.state == state
    assert task.where.startswith("SLURM job 77_3 on node9")


def test_the_mark_lasts_as_long_as_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    path = tmp_path / "records" / "m" / "d.jsonl"
    told = {}

    def work() -> None:
        with running(path):
            told.update(json.loads(path.with_suffix(".running.json").read_text()))
            raise ValueError("over")

    with pytest.raises(ValueError, match="over"):
        work()
    assert (told["host"], told["pid"], told["slurm_job"]) == (HERE, os.getpid(), "12_4")
    assert list(path.parent.iterdir()) == []


def test_a_line_a_minute_where_there_is_no_terminal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    now = [0.0]
    monkeypatch.setattr(live_progress.time, "monotonic", lambda: now[0])
    log = logging.getLogger("progress")
    with caplog.at_level(logging.INFO), LiveProgress("task", Pace(9), log) as progress:
        for i in range(9):
            now[0] += 25.0
            progress.add([record(i)])
    said = [line.getMessage() for line in caplog.records if line.name == "progress"]
    assert [line.split(",")[0] for line in said] == [
        "task: 3 of 9 prompts", "task: 6 of 9 prompts", "task: 9 of 9 prompts",
    ]  # fmt: skip
    assert "122 tokens/s" in said[0] and "ends" in said[0]
    assert capfd.readouterr().err == ""


def test_live_in_a_terminal() -> None:
    words = """
import logging
from reattention_eval.harness.live_progress import LiveProgress
from reattention_eval.report.pace import Pace
with LiveProgress("task", Pace(2, gpu=True), logging.getLogger()) as progress:
    for i in range(2):
        progress.add([{"index": i, "n_tokens": 1000, "seconds": 5.0, "peak_bytes": 2**30}])
"""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))
    environment = {**os.environ, "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", words], stderr=follower, env=environment)
    os.close(follower)
    shown = os.read(leader, 1 << 16).decode()
    os.close(leader)
    assert done.returncode == 0, shown
    assert "task, 2 of 2 prompts, 200 tokens/s" in shown
    assert "GPU memory 1.0 GiB" in shown


def test_watch_ends_with_the_run(half: Path) -> None:
    path = mark(half)
    script = f"import time, pathlib; time.sleep(3); pathlib.Path({str(path)!r}).unlink()"
    ender = subprocess.Popen([sys.executable, "-c", script])
    words = ["status", str(half), "--watch", "--every", "1"]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    ender.wait()
    assert result.exit_code == 0, result.output
    assert "tiny-full on longbench-qasper-31500-abcdef01: 2 of 3 prompts" in result.output
    assert result.output.count("samples done") == 2 and "1 stopped" in result.output


def test_the_line_of_the_demo(half: Path) -> None:
    assert progress_line(half / "none") == ""
    line = progress_line(half)
    assert line.startswith("tiny-full on longbench-qasper-31500-abcdef01: 2 of 3 prompts, 2,00")
    assert clock(time.time()) == time.strftime("%H:%M")


@pytest.mark.parametrize("damage", ["", "{", "\0" * 99, '{"dataset": 3}', None])
def test_samples_are_counted_beside_a_damaged_manifest(half: Path, damage: str | None) -> None:
    manifest = next(half.glob("records/tiny-full/*.manifest.json"))
    manifest.unlink()
    if damage is not None:
        manifest.write_text(damage)
    (task,) = run_progress(half)
    assert (task.state, task.pace.done, task.pace.total) == ("stopped", 2, None)
    assert task.pace.tokens_per_second


@pytest.mark.parametrize("noted", [True, False])
def test_of_a_split_dataset_each_part_is_followed(half: Path, noted: bool) -> None:
    (records,) = half.glob("records/tiny-full/*.jsonl")
    manifest, dataset = records.with_suffix(".manifest.json"), records.stem
    told = json.loads(manifest.read_text())
    lines = records.read_text().splitlines(keepends=True)
    for part, (n, line) in enumerate(zip((1, 2), lines, strict=True)):
        told["dataset"]["n"] = n
        put(records.with_name(f"{dataset}_{part}.manifest.json"), told)
        records.with_name(f"{dataset}_{part}.jsonl").write_text(line)
    put(half / "predictions" / "tiny-full" / f"{dataset}_0.json", answers(1))
    records.unlink()
    manifest.unlink()
    if noted:
        note_expected(half, [("tiny-full", dataset)])
    found = [(t.dataset, t.state, t.pace.done, t.pace.total) for t in run_progress(half)]
    assert found == [(f"{dataset}_0", "done", 1, 1), (f"{dataset}_1", "stopped", 1, 2)]
    assert not is_running(half, "tiny-full", dataset)
    put(half / "records" / "tiny-full" / f"{dataset}_1.running.json",
        {"host": HERE, "pid": os.getpid(), "slurm_job": None, "since": time.time()})  # fmt: skip
    assert is_running(half, "tiny-full", dataset)

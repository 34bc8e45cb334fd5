"""Whole runs of LongBench, L-Eval and InfiniteBench on a tiny model and tiny files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from tiny_benchmarks import RAW_BENCHMARKS, write_benchmarks

from reattention_eval.cli.configs import config_path
from reattention_eval.harness.compose import evaluation
from reattention_eval.harness.list_jobs import main as list_jobs
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
from reattention_eval.report import build_report

TESTS = Path(__file__).parents[1]
# of every benchmark; sci_fi asks twice, samsum ends at a line break, longbook_qa_eng repeats a book
TASKS = "qasper,samsum,tpo,sci_fi,longbook_qa_eng"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_benchmarks(tmp_path_factory.mktemp("data"), repeat=60)


def opencompass(
    config: str, *words: str, cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(TESTS), "CUDA_VISIBLE_DEVICES": "",
        # nothing of the real cache, and nothing of the network, may be needed
        "REATTENTION_CACHE": str(cwd / "cache"), "HF_HUB_OFFLINE": "1",
        **{f"REATTENTION_{name}": value for name, value in variables.items()},
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", str(config_path(config)), *words],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=3000,
    )  # fmt: skip


def run_folder(cwd: Path, name: str) -> Path:
    return sorted((cwd / "outputs" / name).glob("2*"))[-1]


def results(run: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By method and task."""
    return {
        (path.parent.name.split("-")[2], "-".join(path.stem.split("-")[1:-2])): json.loads(
            path.read_text()
        )
        for path in (run / "results").glob("*/*.json")
    }


def test_one_run_over_three_benchmarks(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    done = opencompass(
        "eval_paper.py", cwd=tmp_path, DATA=str(data), RUN_MODEL=str(checkpoint),
        ONLY_TASKS=TASKS, ONLY_METHODS="full", ONLY_LENGTHS="32K", SAMPLES="2", SCORING="both",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(tmp_path, "paper")
    found = results(run)
    assert {task for _, task in found} == set(TASKS.split(","))
    assert all(0 <= r["score"] <= 100 and r["n"] == 2 for r in found.values())
    # OpenCompass has no rule for sci_fi
    assert {task for (_, task), r in found.items() if "opencompass_score" not in r} == {"sci_fi"}
    table = (run / "report" / "table.md").read_text()
    for heading in (
        "longbench, 31,500 tokens, official score",
        "longbench, 31,500 tokens, OpenCompass's score",
        "leval, 31,500 tokens, official score",
        "infinitebench, 31,500 tokens, official score",
    ):
        assert heading in table
        assert heading in done.stdout
    assert "all tasks (2)" in table
    assert "full (prompts cut to 7,500)" in table
    predictions = next((run / "predictions").glob("*/longbench-qasper-*.json")).read_text()
    assert len(predictions) < 10_000  # head, tail and hash, not the whole documents
    assert not (tmp_path / "cache").exists()


def task_config(checkpoint: Path, tmp_path: Path, tasks: list[str]) -> Config:
    model = dict(
        abbr="tiny", type="reattention_eval.harness.LongContextLM", path=str(checkpoint),
        window=8192, dtype="float32",
    )  # fmt: skip
    plans = [
        dict(benchmark=name, lengths=[31500], tasks=[task for task in tasks if task in b.tasks])
        for name, b in RAW_BENCHMARKS.items()
    ]
    run = evaluation([model], [dict(type="full", chunk_size=64)], plans)
    return Config(
        {"models": run["models"], "datasets": [run["datasets"]], "work_dir": str(tmp_path / "work")}
    )


def test_a_run_goes_on_where_it_stopped(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REATTENTION_DATA", str(data))
    config = task_config(checkpoint, tmp_path, ["qasper", "sci_fi", "longbook_qa_eng"])
    LongContextInferTask(config).run()
    work = tmp_path / "work"
    before = {path: path.read_bytes() for path in (work / "predictions").glob("*/*.json")}
    assert len(before) == 3
    kept = {}
    for path in before:
        records = work / "records" / path.parent.name / f"{path.stem}.jsonl"
        lines = records.read_bytes().split(b"\n")
        # a kill in the middle of the last sample's line
        records.write_bytes(b"\n".join(lines[:-2]) + b"\n" + lines[-2][:40])
        kept[records] = lines[:-2]
        path.unlink()
    LongContextInferTask(config).run()
    for records, lines in kept.items():
        again = records.read_bytes().split(b"\n")
        assert again[: len(lines)] == lines
        assert len(again) == len(lines) + 2
    assert {path: path.read_bytes() for path in before} == before
    reused = [
        json.loads(line)["reused_tokens"]
        for line in next((work / "records").glob("*/infinitebench-*.jsonl")).read_text().split("\n")
        if line
    ]
    assert reused[1] > 1000  # the second question about the first book
    LongContextEvalTask(config).run()
    report = build_report(work, [(config.models[0].abbr, d.abbr) for d in config.datasets[0]])
    assert report.problems == []
    assert len(report.grids) == 3


def test_jobs_are_listed_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path))
    monkeypatch.setenv("REATTENTION_DRY_RUN", "")
    config = str(config_path("eval_leval_reattn.py"))
    assert list_jobs(["--check", config]) == 1
    assert "reattention-eval prepare leval" in capsys.readouterr().err
    assert list_jobs([config]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "# eval_leval_reattn.py: 540 jobs, 27 models with method"
    assert lines[0].split("\t")[1] == "leval-tpo-31500"
    assert len(lines) == 541


def test_the_script_lists_and_refuses(data: Path, tmp_path: Path) -> None:
    script = TESTS.parent / "scripts" / "reproduce_paper.sh"
    environment = {
        **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "REATTENTION_DATA": str(data), "REATTENTION_ONLY_MODELS": "LLaMA3-8B",
    }  # fmt: skip

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(script), *words], env=environment, cwd=tmp_path,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    listed = call("--dry-run", "longbench", "infinitebench")
    assert listed.returncode == 0, listed.stderr
    counts = [line for line in listed.stdout.splitlines() if line.startswith("#")]
    assert counts == [
        "# eval_longbench_reattn.py: 63 jobs, 3 models with method",
        "# eval_infinitebench_reattn.py: 21 jobs, 3 models with method",
    ]
    assert call("everything").returncode == 2


@pytest.mark.parametrize("benchmark", RAW_BENCHMARKS)
def test_every_task_runs_scores_and_is_in_the_table(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, benchmark: str
) -> None:
    """Its configuration, in this process, with a sample and a few new tokens a task."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "DATA": str(write_benchmarks(tmp_path / "data")), "RUN_MODEL": str(checkpoint),
        "ONLY_TASKS": "all", "ONLY_LENGTHS": "32K", "ONLY_METHODS": "full", "SAMPLES": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"REATTENTION_{name}", value)
    read = Config.fromfile(config_path(f"eval_{benchmark}_reattn.py"), format_python_code=False)
    work = tmp_path / "work"
    config = Config(
        {
            "models": [read.models[0].to_dict()],
            "datasets": [[dataset.to_dict() for dataset in read.datasets]],
            "work_dir": str(work),
        }
    )
    for dataset in config.datasets[0]:
        dataset.infer_cfg.inferencer.max_out_len = 6
    LongContextInferTask(config).run()
    LongContextEvalTask(config).run()
    report = build_report(work, [(read.models[0].abbr, d.abbr) for d in config.datasets[0]])
    assert report.problems == []
    tasks = RAW_BENCHMARKS[benchmark].tasks
    assert {task for _, task in results(work)} == set(tasks)
    heading = f"{benchmark}, 31,500 tokens, official score: tasks"
    assert report.grids[heading][0][1:] == list(tasks)
    assert all(cell.endswith("(n=1)") for cell in report.grids[heading][1][0][1:])


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", RAW_BENCHMARKS)
def test_every_task_runs_whole(
    checkpoint: Path, data: Path, tmp_path: Path, benchmark: str
) -> None:
    done = opencompass(
        f"eval_{benchmark}_reattn.py", cwd=tmp_path, DATA=str(data), RUN_MODEL=str(checkpoint),
        ONLY_TASKS="all", ONLY_LENGTHS="32K", ONLY_METHODS="reattention", SCORING="both",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    run = run_folder(tmp_path, benchmark)
    assert {task for _, task in results(run)} == set(RAW_BENCHMARKS[benchmark].tasks)
    table = (run / "report" / "table.md").read_text()
    assert all(task in table for task in RAW_BENCHMARKS[benchmark].tasks)

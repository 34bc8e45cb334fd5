"""The smoke run: its configuration, and that a row that did not select fails it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from reattention_eval.checkpoints.miniature import miniature_folder, write_miniatures
from reattention_eval.cli.configs import config_path
from reattention_eval.errors import ConfigError
from reattention_eval.harness.smoke import side_by_side, smoke_run
from reattention_eval.harness.smoke_summarizer import SmokeSummarizer

CONFIG = config_path("eval_models_smoke.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REATTENTION_CACHE", str(folder))
        write_miniatures(miniature_folder())
    return folder


@pytest.fixture
def written(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(cache))


def test_nine_models_two_methods(written: None, tmp_path: Path) -> None:
    config = Config.fromfile(CONFIG, format_python_code=False)
    assert len(config.models) == 18
    assert {m.method.type for m in config.models} == {"full", "reattention"}
    assert len({m.name for m in config.models}) == 9
    assert all(Path(m.path).is_dir() for m in config.models)
    assert {d.length for d in config.datasets} == {1024}
    assert config.infer.runner.max_num_workers >= 1
    config.dump(tmp_path / "dump.py")
    again = Config.fromfile(tmp_path / "dump.py", format_python_code=False)
    assert again.models == config.models
    assert again.infer == config.infer


def test_tasks_of_this_machine_run_on_every_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    local, slurm = (
        {"partitioner": {}, "runner": {"type": f"x.{kind}Runner", "max_num_workers": 2}}
        for kind in ("Local", "Slurm")
    )
    assert side_by_side(local)["runner"]["max_num_workers"] == 6
    assert side_by_side(slurm) == slurm


def test_without_the_checkpoints_the_command_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="reattention-eval prepare smoke"):
        Config.fromfile(CONFIG, format_python_code=False)


def test_a_scope_that_holds_the_whole_prompt_is_no_smoke(written: None) -> None:
    with pytest.raises(ConfigError, match="attends to all of a prompt of 300 tokens"):
        smoke_run([], [dict(type="reattention")], 300, [50], 1)


@pytest.fixture(scope="module")
def smoke(
    cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """All nine, all the way, in one process."""
    cwd = tmp_path_factory.mktemp("smoke")
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "",
        "REATTENTION_CACHE": str(cache),
    }  # fmt: skip
    environment.pop("TRITON_INTERPRET", None)  # for the kernels' own tests
    done = subprocess.run(
        [sys.executable, "-m", "opencompass.cli.main", str(CONFIG), "--debug"],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    runs = sorted((cwd / "outputs" / "models_smoke").glob("*"))
    assert runs, done.stdout + done.stderr
    return runs[-1], done


def records(run: Path) -> dict[Path, list[dict[str, Any]]]:
    found = sorted((run / "records").glob("*-reattention-*/*.jsonl"))
    return {path: [json.loads(line) for line in path.read_text().splitlines()] for path in found}


def test_the_run_ends_well_and_shows_models_by_methods(smoke: Any) -> None:
    run, done = smoke
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert "| model | full | reattention 320 |" in lines
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines if "(n=2)" in line]
    assert len(set(names[-18:])) == 9  # accuracy and NLL, nine lines each
    kept = records(run)
    assert len(kept) == 9
    for rows in kept.values():
        assert [row["n_tokens"] for row in rows] == [1024, 1024]
        assert all(row["layer_steps_selected"] > 0 for row in rows)


def test_a_prompt_without_selection_fails_the_run(
    smoke: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Even where the record claims that it need not have selected."""
    copy = shutil.copytree(smoke[0], tmp_path / "runs" / smoke[0].name)
    path, rows = next(iter(records(copy).items()))
    rows[1] |= {"layer_steps_selected": 0, "must_select": False}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = Config.fromfile(next((copy / "configs").glob("*.py")), format_python_code=False)
    config.work_dir = str(copy)
    summarizer = SmokeSummarizer(config)
    assert set(summarizer.must_select) == {"reattention", "reattention_plus"}
    with pytest.raises(SystemExit) as ended:
        summarizer.summarize(time_str="20260101_000000")
    assert "problem(s)" not in str(ended.value)
    said = f"{path.parent.name} on {path.stem}: in 1 of 2 prompts no layer selected anything."
    assert said in str(ended.value)
    assert "layer-steps that selected" in capsys.readouterr().out

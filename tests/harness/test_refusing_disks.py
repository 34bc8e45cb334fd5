"""A disk that takes no more: the run says so in one sentence, keeps what it has, and goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from mmengine.config import Config

from reattention_eval.errors import RunFolderError
from reattention_eval.harness import job_runs, standalone
from reattention_eval.harness.run_folder import refusal, write_whole
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
from reattention_eval.report.records import read_records

TESTS = Path(__file__).parents[1]
ROWS = [{"prompt": f"The dog {i} thinks of the fox.", "answer": "fox"} for i in range(5)]
FULL = r"cannot be written \(No space left on device\); what was finished is kept"


def fill(path: Path) -> Path:
    """Whatever is written to this file meets a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/dev/full")
    return path


def two_datasets(task_config: Callable[..., Any], inferencer: dict[str, Any]) -> Config:
    made = task_config(ROWS).to_dict()
    (first,) = made["datasets"][0]
    first["infer_cfg"]["inferencer"] = {**first["infer_cfg"]["inferencer"], **inferencer}
    made["datasets"][0].append({**first, "abbr": "others"})
    return Config(made)


def predictions(config: Config, name: str = "rows") -> Path:
    return Path(config.work_dir) / "predictions" / "tiny" / f"{name}.json"


def test_no_dataset_is_tried_on_a_full_disk(task_config: Callable[..., Any]) -> None:
    config = two_datasets(task_config, {})
    records = fill(Path(config.work_dir) / "records" / "tiny" / "rows.jsonl")
    with pytest.raises(RunFolderError, match=FULL):
        LongContextInferTask(config).run()
    assert not records.with_name("others.jsonl").exists()
    assert not list(records.parent.glob("*.running.json"))
    records.unlink()
    LongContextInferTask(config).run()
    assert len(read_records(records)) == len(json.loads(predictions(config).read_text())) == 5


def test_what_opencompass_was_writing_is_no_prediction_and_no_result(
    task_config: Callable[..., Any],
) -> None:
    config = two_datasets(task_config, {})
    for dataset in config.datasets[0]:
        dataset.infer_cfg.inferencer = {
            "type": "opencompass.openicl.icl_inferencer.GenInferencer", "max_out_len": 4,
        }  # fmt: skip
    work = Path(config.work_dir)
    full = fill(work / "unfinished" / "predictions" / "tiny" / "rows.json")
    with pytest.raises(RunFolderError, match=FULL):
        LongContextInferTask(config).run()
    assert not (work / "predictions" / "tiny" / "rows.json").exists()
    kept = (work / "records" / "tiny" / "rows.jsonl").read_bytes()
    assert kept.count(b"\n") == 5
    full.unlink()
    LongContextInferTask(config).run()
    assert (work / "records" / "tiny" / "rows.jsonl").read_bytes() == kept  # nothing ran twice
    full = fill(work / "unfinished" / "results" / "tiny" / "rows.json")
    with pytest.raises(RunFolderError, match=FULL):
        LongContextEvalTask(config).run()
    assert not list(work.glob("results/tiny/*"))
    full.unlink()
    LongContextEvalTask(config).run()
    assert len(list(work.glob("results/tiny/*.json"))) == 2
    assert not [path for path in work.rglob("unfinished/**/*") if path.is_file()]


def test_half_a_file_is_taken_away_again(tmp_path: Path) -> None:
    fill(tmp_path / "a.json.part")
    with pytest.raises(RunFolderError, match=FULL):
        write_whole(tmp_path / "a.json", {"a": 1})
    assert list(tmp_path.iterdir()) == []
    assert refusal(tmp_path) is None and list(tmp_path.iterdir()) == []
    assert "cannot be written (No such file or directory)" in str(refusal(tmp_path / "none"))


def test_a_second_run_without_opencompass_waits_its_turn(
    checkpoint: Path, haystack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "methods.py").write_text("methods = [dict(type='full')]\n")
    words = [
        "--model", str(checkpoint), "--methods", str(tmp_path / "methods.py"), "--haystack",
        str(haystack), "--lengths", "300", "--depths", "0", "--work-dir", str(tmp_path / "work"),
    ]  # fmt: skip
    assert standalone.main(words) == 0
    (records,) = tmp_path.glob("work/records/*/*.jsonl")
    for path in [*tmp_path.glob("work/predictions/*/*"), *tmp_path.glob("work/results/*/*")]:
        path.unlink()
    records.write_bytes(b"")
    monkeypatch.setattr(job_runs, "LOCK_SECONDS", 0.1)
    with FileLock(records.with_suffix(".lock")):
        assert standalone.main(words) == 1
    assert records.read_bytes() == b""
    assert standalone.main(words) == 0
    assert records.read_bytes().count(b"\n") == 1

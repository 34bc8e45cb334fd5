"""Progress on disk, failures on record, nothing run twice and nothing reused that must not be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reattention_eval.engine.hooked import HookedSession
from reattention_eval.errors import ConfigError
from reattention_eval.harness import LongContextLM, PromptRunner
from reattention_eval.harness.record_file import RecordFile, records_path
from reattention_eval.harness.sample_run import compact
from reattention_eval.harness.tasks import LongContextInferTask, infer_task
from reattention_eval.report.records import read_records

SEPARATORS = "one\u2028two\u2029three\u0085four\x1cfive\r\nsix"


def rows(n: int = 4) -> list[dict[str, Any]]:
    return [{"prompt": f"The dog number {i}. {SEPARATORS}", "answer": f"fox {i}"} for i in range(n)]


class Files:
    """Where a task of `task_config` writes."""

    def __init__(self, config: Any) -> None:
        work = Path(config.work_dir)
        self.predictions = work / "predictions" / "tiny" / "rows.json"
        self.records = work / "records" / "tiny" / "rows.jsonl"
        self.manifest = work / "records" / "tiny" / "rows.manifest.json"

    def predicted(self) -> list[str]:
        saved = json.loads(self.predictions.read_text(encoding="utf-8"))
        return [saved[str(i)]["prediction"] for i in range(len(saved))]


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that reach the model from now on."""
    ran: list[str] = []
    run = PromptRunner.run

    def counted(self: PromptRunner, samples: Any, *args: Any, **kwargs: Any) -> Any:
        ran.extend(sample.prompt for sample in samples)
        return run(self, samples, *args, **kwargs)

    monkeypatch.setattr(PromptRunner, "run", counted)
    return ran


def test_predictions_records_and_manifest(task_config: Callable[..., Any]) -> None:
    config = task_config(
        rows(), inferencer=dict(answer_column="answer", dataset_facts=dict(length=7))
    )
    LongContextInferTask(config).run()
    files = Files(config)
    lm = LongContextLM(path=config.models[0].path, dtype="float32")
    assert files.predicted() == lm.generate([row["prompt"] for row in rows()], 4)
    records = read_records(files.records)
    assert sorted(records) == [0, 1, 2, 3]
    for record in records.values():
        assert record["n_tokens"] == lm.get_token_len(rows()[record["index"]]["prompt"])
        assert len(record["head_ids"]) == len(record["tail_ids"]) == 16
        assert record["answer_nll"] > 0
        assert record["prefill_seconds"] > 0
        assert record["peak_bytes"] > 0
        assert record["n_cut"] == 0
    manifest = json.loads(files.manifest.read_text())
    assert manifest["method"] == {
        "name": "full", "family": "full attention", "budget": None,
        "settings": lm.method.settings(), "source": lm.method.source,
    }  # fmt: skip
    assert manifest["model"]["trained_window"] == 8192
    assert manifest["dataset"]["length"] == 7
    assert manifest["dataset"]["n"] == 4
    assert manifest["environment"][0]["versions"]["opencompass"] == "0.5.4"


def test_a_killed_task_goes_on_where_it_was(
    task_config: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = task_config(rows(300), inferencer=dict(max_out_len=16))
    files = Files(config)
    dumped = tmp_path / "task.py"
    config.dump(dumped)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, infer_task.__file__, str(dumped)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while len(read_records(files.records)) < 3 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = len(read_records(files.records))
    assert 3 <= saved < 300
    assert not files.predictions.exists()
    with files.records.open("a", encoding="ascii") as file:
        file.write('{"index": 299, "pred')  # killed in the middle of a line
    ran = count_runs(monkeypatch)
    LongContextInferTask(config).run()
    assert len(ran) == 300 - saved
    assert len(files.predicted()) == 300
    assert files.predicted()[299] == read_records(files.records)[299]["prediction"]


def test_a_failing_sample_is_recorded_and_the_others_go_on(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = rows()
    bad[1]["prompt"] = "   "
    config = task_config(bad)
    files = Files(config)
    with pytest.raises(SystemExit, match=r"rows\.json"):
        LongContextInferTask(config).run()
    records = read_records(files.records)
    assert "prompt is empty" in records[1]["error"]
    assert all("prediction" in records[i] for i in (0, 2, 3))
    assert not files.predictions.exists()
    # the same run again tries only what failed
    ran = count_runs(monkeypatch)
    with pytest.raises(SystemExit):
        LongContextInferTask(config).run()
    assert ran == ["   "]


@pytest.mark.parametrize(("take", "batch_size"), [(bytearray, 1), (torch.empty, 4)])
def test_a_sample_too_long_for_the_host_says_what_fits_and_the_others_go_on(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, take: Any, batch_size: int
) -> None:
    large, read = rows(), HookedSession._read
    large[1]["prompt"] += " fox" * 200

    def read_less(self: Any, prompts: list[list[int]], *more: Any) -> Any:
        if max(map(len, prompts)) > 200:
            read(self, [ids[:50] for ids in prompts], *more)
            take(1 << 60)
        return read(self, prompts, *more)

    monkeypatch.setattr(HookedSession, "_read", read_less)
    config = task_config(large, batch_size=batch_size)
    with pytest.raises(SystemExit, match=r"rows\.json"):
        LongContextInferTask(config).run()
    records = read_records(Files(config).records)
    said = (
        r"HostMemoryError: tiny-llama: no host memory left at a prompt of \d{3} tokens with its "
        r'answer; by plan the longest that fits here is [\d,]{7,} tokens with cache="device": ask '
    )
    assert re.match(said, records[1]["error"]), records[1]["error"]
    assert all("prediction" in records[i] for i in (0, 2, 3))


def test_in_a_batch_only_the_bad_sample_fails(task_config: Callable[..., Any]) -> None:
    bad = rows()
    bad[2]["prompt"] = ""
    config = task_config(bad, batch_size=4)
    with pytest.raises(SystemExit):
        LongContextInferTask(config).run()
    records = read_records(Files(config).records)
    assert [i for i in sorted(records) if records[i].get("error")] == [2]


def test_a_changed_setting_under_the_old_name_is_run_anew(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    LongContextInferTask(task_config(rows())).run()
    ran = count_runs(monkeypatch)
    for change in (
        task_config(rows(), method=dict(type="streaming_llm", window_size=600)),
        task_config(rows(), inferencer=dict(max_out_len=6)),
        task_config(rows(), max_seq_len=64),
    ):
        Files(change).predictions.unlink()
        LongContextInferTask(change).run()
    assert len(ran) == 3 * 4
    Files(change).predictions.unlink()
    LongContextInferTask(change).run()
    assert len(ran) == 3 * 4  # and the unchanged one is not


def test_a_dataset_that_cannot_be_built_does_not_stop_the_next(
    task_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = task_config(rows())
    good = config.datasets[0][0]
    broken = {**good, "abbr": "broken", "rows": None}
    config.datasets = [[broken, good]]
    built: list[str] = []
    init = LongContextLM.__init__

    def counted(self: LongContextLM, *args: Any, **kwargs: Any) -> None:
        built.append(kwargs["path"])
        init(self, *args, **kwargs)

    monkeypatch.setattr(LongContextLM, "__init__", counted)
    with pytest.raises(SystemExit, match="broken"):
        LongContextInferTask(config).run()
    assert len(Files(config).predicted()) == 4
    assert len(built) == 1  # several datasets, one load


def test_a_model_that_cannot_be_built_ends_the_task(task_config: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="unknown method"):
        LongContextInferTask(task_config(rows(), method=dict(type="no"))).run()


def test_without_a_prompt_column_the_template_makes_the_prompt(
    task_config: Callable[..., Any],
) -> None:
    config = task_config(rows(2), inferencer=dict(prompt_column=None))
    config.datasets[0][0].infer_cfg.prompt_template.template = "Q: {prompt}?"
    LongContextInferTask(config).run()
    lm = LongContextLM(path=config.models[0].path, dtype="float32")
    assert Files(config).predicted() == lm.generate([f"Q: {row['prompt']}?" for row in rows(2)], 4)


def test_opencompass_own_inferencer_drives_the_model_too(
    task_config: Callable[..., Any],
) -> None:
    config = task_config(rows(3), batch_size=2)
    config.datasets[0][0].infer_cfg.inferencer = dict(
        type="opencompass.openicl.icl_inferencer.GenInferencer", max_out_len=4
    )
    LongContextInferTask(config).run()
    lm = LongContextLM(path=config.models[0].path, dtype="float32")
    assert Files(config).predicted() == lm.generate([row["prompt"] for row in rows(3)], 4)


def test_an_unknown_column_is_named(task_config: Callable[..., Any]) -> None:
    config = task_config(rows(), inferencer=dict(answer_column="gold"))
    with pytest.raises(SystemExit):
        LongContextInferTask(config).run()
    assert not Files(config).predictions.exists()


def test_long_prompts_are_stored_compactly(task_config: Callable[..., Any]) -> None:
    prompt = "dog " * 300
    config = task_config(
        [{"prompt": prompt, "answer": "x"}], inferencer=dict(stored_prompt_chars=100)
    )
    LongContextInferTask(config).run()
    stored = json.loads(Files(config).predictions.read_text())["0"]["origin_prompt"]
    assert stored == compact(prompt, 100)
    assert len(stored) < 200
    assert stored.startswith("dog dog")
    assert "1,200 characters, sha256" in stored
    assert compact(prompt, 5000) == prompt


def test_records_lie_next_to_predictions() -> None:
    assert records_path("/w/predictions/m", "d.json") == Path("/w/records/m/d.jsonl")
    assert records_path("w/predictions/x/predictions/m/", "a.b.json") == Path(
        "w/predictions/x/records/m/a.b.jsonl"
    )


def test_records_survive_every_line_separator(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "r.jsonl", ["k0", "k1"])
    rest = {"gold": "", "answer_nll": None, "n_tokens": 1, "n_cut": 0}
    file.append({"index": 0, "key": "k0", "prediction": SEPARATORS, **rest})
    file.append({"index": 1, "key": "old", "prediction": "x"})
    again = RecordFile(tmp_path / "r.jsonl", ["k0", "k1"])
    assert {i: r["prediction"] for i, r in again.done.items()} == {0: SEPARATORS}

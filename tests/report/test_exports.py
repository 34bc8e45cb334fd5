"""Runs in the formats of inspect_ai and lm-evaluation-harness, held against their own code."""

from __future__ import annotations

import json
import math
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner
from written_run import FULL, HOSTILE, OURS, write_cell

from reattention_eval.cli import app
from reattention_eval.harness.running_mark import running
from reattention_eval.report.inspect_log import write_inspect_log
from reattention_eval.report.run import read_run

SCHEMA = json.loads((Path(__file__).parent / "data" / "inspect_log.schema.json").read_text())
ANSWERS = ["Paris", "Rome", HOSTILE]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_cell(tmp_path / "run", FULL, ANSWERS, nll=[0.25, 1.0, 2.0])
    write_cell(tmp_path / "run", OURS, ["Paris"] * 3)
    return tmp_path / "run"


def invoke(*words: object) -> str:
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def holds(kind: str, value: Any) -> None:
    validator = jsonschema.Draft202012Validator({"$ref": f"#/$defs/{kind}", **SCHEMA})
    for error in validator.iter_errors(value):
        raise AssertionError(f"{kind}: {error.json_path}: {error.message}")


def logs(folder: Path) -> dict[str, dict[str, Any]]:
    """The files of each log by the name of its method."""
    found = {}
    for path in folder.glob("*.eval"):
        with zipfile.ZipFile(path) as log:
            assert log.testzip() is None
            files = {name: json.loads(log.read(name)) for name in log.namelist()}
        found[files["header.json"]["eval"]["solver"]] = files
    return found


def test_inspect_logs_are_as_its_schema_has_them(run: Path, tmp_path: Path) -> None:
    out = invoke("export", "inspect", run, "--out", tmp_path / "logs")
    assert f"inspect view --log-dir {tmp_path / 'logs'}" in out.replace("\n", "")
    found = logs(tmp_path / "logs")
    assert sorted(found) == ["full", "reattention"]
    assert len({files["header.json"]["eval"]["task_id"] for files in found.values()}) == 2
    for files in found.values():
        holds("EvalLog", files["header.json"])
        holds("EvalLog", {"status": "started", **files["_journal/start.json"]})
        for name, value in files.items():
            if name.startswith("samples/"):
                holds("EvalSample", value)
        for summary in files["summaries.json"]:
            holds("EvalSampleSummary", summary)
        assert len(files["summaries.json"]) == 3
    full = found["full"]
    header, sample = full["header.json"], full["samples/1_epoch_1.json"]
    assert header["status"] == "success"
    assert [score["name"] for score in header["results"]["scores"]] == ["score", "f1", "answer_nll"]
    assert header["eval"]["model"] == "full/Tiny"
    # what a sample was asked, answered and scored, why it was cut, and what was attended to
    assert sample["input"].endswith("Question 1?") and sample["target"] == "Paris"
    assert sample["output"]["completion"] == sample["scores"]["score"]["answer"] == "Rome"
    assert {name: score["value"] for name, score in sample["scores"].items()} == {
        "score": 0.0, "answer_nll": 1.0,
    }  # fmt: skip
    assert "it was more than 31,500 tokens" in sample["metadata"]["cut"]
    assert sample["metadata"]["attended"].startswith("0 % of layer-steps")
    assert sample["started_at"] < sample["completed_at"]
    # hostile answers are kept whole, and shown as plain text
    assert full["samples/2_epoch_1.json"]["output"]["completion"] == HOSTILE
    assert len(full["summaries.json"][2]["scores"]["score"]["answer"]) <= 1024
    assert header["eval"]["viewer"] == {"trust_content": False}


def test_a_log_of_what_failed_or_is_unfinished(run: Path, tmp_path: Path) -> None:
    write_cell(run, FULL, ANSWERS, task="musique", errors={2: "ValueError: no room"})
    write_cell(run, FULL, ANSWERS, task="narrativeqa")
    for room in ("predictions", "results"):
        path = next((run / room).glob("tiny-full/longbench-narrativeqa*"))
        half = path.parent.name, path.stem
        path.unlink()
    invoke("export", "inspect", run, "--out", tmp_path / "logs")
    statuses = {}
    for path in (tmp_path / "logs").glob("*.eval"):
        with zipfile.ZipFile(path) as log:
            header = json.loads(log.read("header.json"))
            holds("EvalLog", header)
            statuses[header["eval"]["task"], header["eval"]["solver"]] = header["status"]
            if header["status"] == "error":
                assert "1 of 3 samples failed (sample 2: ValueError" in header["error"]["message"]
                holds("EvalSample", failed := json.loads(log.read("samples/2_epoch_1.json")))
                assert failed["error"]["message"] == "ValueError: no room"
            if header["status"] == "cancelled":  # half of it: scored by the same rule
                sample = json.loads(log.read("samples/0_epoch_1.json"))
                assert sample["scores"]["score"]["value"] == 100.0
    assert statuses["longbench-musique-31500", "full"] == "error"
    assert statuses["longbench-narrativeqa-31500", "full"] == "cancelled"
    cell = next(c for c in read_run(run) if (c.model, c.dataset) == half)
    with running(run / "records" / half[0] / f"{half[1]}.jsonl"):
        log = write_inspect_log(cell, run, tmp_path)
    with zipfile.ZipFile(log) as opened:
        assert json.loads(opened.read("header.json"))["status"] == "started"


@pytest.mark.slow
def test_inspects_own_reader(run: Path, tmp_path: Path) -> None:
    """INSPECT_PYTHON: an interpreter with inspect_ai, which cannot stand beside OpenCompass."""
    invoke("export", "inspect", run, "--out", tmp_path / "logs")
    words = """
import sys
from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_sample_summaries
for info in list_eval_logs(sys.argv[1]):
    log = read_eval_log(info)
    assert len(read_eval_log_sample_summaries(info)) == len(log.samples) == 3
    print(log.status, log.eval.model, [s.output.completion for s in log.samples][:2],
          log.results.scores[0].metrics["mean"].value)
"""
    python = os.environ["INSPECT_PYTHON"]
    done = subprocess.run(
        [python, "-c", words, str(tmp_path / "logs")], capture_output=True, text=True, timeout=300,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "success full/Tiny ['Paris', 'Rome'] 33.3" in done.stdout
    assert "success reattention-2048/Tiny ['Paris', 'Paris'] 100.0" in done.stdout


def test_lm_eval_finds_and_names_the_files(run: Path, tmp_path: Path) -> None:
    """By the functions of lm_eval that dashboards and its own hub upload find results with."""
    from lm_eval.utils import (
        get_file_datetime,
        get_file_task_name,
        get_results_filenames,
        get_sample_results_filenames,
        sanitize_model_name,
    )

    invoke("export", "lm-eval", run, "--out", tmp_path / "out")
    names = [str(path) for path in sorted((tmp_path / "out").rglob("*")) if path.is_file()]
    results, samples = get_results_filenames(names), get_sample_results_filenames(names)
    assert len(results) == len(samples) == 2 and len(names) == 4
    for one, other in zip(results, samples, strict=True):
        path = Path(one)
        told = json.loads(path.read_text())
        assert path.parent.name == sanitize_model_name(told["model_name"])
        assert [get_file_task_name(Path(other).name)] == list(told["results"])
        moment = get_file_datetime(Path(other).name)
        assert moment == get_file_datetime(path.name).removesuffix(".json")


def test_lm_eval_writes_the_same_fields(run: Path, tmp_path: Path) -> None:
    """What lm_eval's own tracker makes of our results and samples has the fields that ours have."""
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.result_schema import EvalResults, SampleResult

    invoke("export", "lm-eval", run, "--out", tmp_path / "out")
    folder = tmp_path / "out" / "tiny-full"
    ours = json.loads(next(folder.glob("results_*.json")).read_text())
    lines = [json.loads(line) for line in next(folder.glob("samples_*")).read_text().splitlines()]
    task = next(iter(ours["results"]))
    tracker = EvaluationTracker(output_path=str(tmp_path / "theirs"))
    tracker.general_config_tracker.log_experiment_args(
        model_source=ours["model_source"], model_args={"pretrained": "tiny-full"},
        system_instruction=None, chat_template=None, fewshot_as_multiturn=False,
    )  # fmt: skip
    given = [
        {**line, "arguments": [tuple(line["arguments"]["gen_args_0"].values())]} for line in lines
    ]
    tracker.save_results_aggregated(json.loads(json.dumps(ours)), samples={task: given})
    tracker.save_results_samples(task, given)
    theirs = json.loads(next((tmp_path / "theirs").rglob("results_*.json")).read_text())
    for key in ours.keys() - {"total_evaluation_time_seconds"}:
        assert theirs[key] == ours[key], key
    assert set(theirs) == set(ours) <= set(EvalResults.__annotations__)
    # theirs is not ASCII: only a line feed ends a line
    written = next((tmp_path / "theirs").rglob("samples_*.jsonl")).read_bytes().split(b"\n")[:-1]
    assert [json.loads(line) for line in written] == lines
    assert set(SampleResult.__annotations__) <= set(lines[0])


def test_lm_eval_figures_are_shares(run: Path, tmp_path: Path) -> None:
    write_cell(run, FULL, ["x", "y"], task="musique")
    result = next((run / "results").glob("tiny-full/longbench-musique*"))
    told = json.loads(result.read_text())
    for detail, hit in zip(told["details"], (100.0, 0.0), strict=True):
        detail["accuracy"] = hit
    result.write_text(json.dumps({**told, "accuracy": 50.0}))
    invoke("export", "lm-eval", run, "--out", tmp_path / "out")
    ours = json.loads(next((tmp_path / "out" / "tiny-full").glob("results_*.json")).read_text())
    qasper, musique = (ours["results"][t] for t in sorted(ours["results"], reverse=True))
    assert qasper["score,none"] == pytest.approx(1 / 3)
    assert qasper["score_stderr,none"] == pytest.approx(1 / 3)  # of 1, 0, 0
    assert qasper["answer_nll,none"] == pytest.approx(13 / 12)
    assert qasper["f1_stderr,none"] == "N/A"  # no sample has one
    assert (musique["acc,none"], musique["acc_stderr,none"]) == (0.5, pytest.approx(0.5))
    higher = ours["higher_is_better"]["longbench-qasper-31500-abcdef01"]
    assert higher == {"score": True, "f1": True, "answer_nll": False}
    assert ours["n-samples"]["longbench-musique-31500-abcdef01"] == {"original": 2, "effective": 2}
    assert math.isclose(float(ours["total_evaluation_time_seconds"]), 2.0 * 5)


def test_datasets_loads_results_and_samples(run: Path, tmp_path: Path) -> None:
    """As lm_eval itself and the hub's viewer read them back."""
    from datasets import load_dataset

    invoke("export", "lm-eval", run, "--out", tmp_path / "out")
    folder = tmp_path / "out" / "tiny-full"
    for pattern, rows in (("results_*.json", 1), ("samples_*.jsonl", 3)):
        file = str(next(folder.glob(pattern)))
        cache = str(tmp_path / "cache")
        loaded = load_dataset("json", data_files=file, split="train", cache_dir=cache)
        assert len(loaded) == rows
    assert loaded["filtered_resps"][1] == ["Rome"]


@pytest.mark.parametrize("form", ["inspect", "lm-eval"])
def test_nothing_to_export_and_damage_are_said(tmp_path: Path, form: str) -> None:
    (tmp_path / "run" / "configs").mkdir(parents=True)
    result = CliRunner().invoke(app, ["export", form, str(tmp_path / "run")])
    assert result.exit_code == 2 and "has no samples yet" in result.output
    model, dataset = write_cell(tmp_path / "run", FULL, ANSWERS)
    (tmp_path / "run" / "predictions" / model / f"{dataset}.json").write_text("{")
    result = CliRunner().invoke(app, ["export", form, str(tmp_path / "run")])
    assert result.exit_code == 2 and "its predictions file is damaged" in result.output
    assert not list((tmp_path / "run").rglob("*.eval"))

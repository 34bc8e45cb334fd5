"""Files that are read and are others': renamed, swapped, or put in another's place by hand."""

from __future__ import annotations

import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
from runs_by_hand import leave_cell
from typer.testing import CliRunner
from written_run import FULL, OURS, put, write_cell

from reattention_eval.cli import app
from reattention_eval.report.check import check_run
from reattention_eval.report.problems import find_problems
from reattention_eval.report.progress import run_progress
from reattention_eval.report.run import read_run

ANSWERS = ["Paris", "Rome", "Paris"]
LEVAL = {"benchmark": "leval", "task": "sci_fi", "length": 4096}


def changed(path: Path, **parts: Any) -> None:
    told = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**told, **parts}.items() if v is not None}))


def one_problem(run: Path) -> str:
    (problem,) = find_problems(read_run(run))
    return problem


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"dataset": None}, "its manifest has no dataset"),
        ({"model": None, "method": {}}, "its manifest has no model and no method"),
        ({"dataset": {"abbr": "a", "n": 3, "benchmark": "longbench"}}, "its manifest is of a"),
        ({"dataset": {"benchmark": "longbench"}}, "does not say how many samples there are"),
    ],
)
def test_a_manifest_that_is_not_of_these_samples_is_none(
    tmp_path: Path, parts: dict[str, Any], said: str
) -> None:
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    changed(tmp_path / "records" / model / f"{dataset}.manifest.json", **parts)
    problem = one_problem(tmp_path)
    assert f"{model} on {dataset}: {said}" in problem.replace("its manifest does", "does")
    assert "delete manifest, predictions and result" in problem
    (task,) = run_progress(tmp_path)
    assert task.state == "failed" and "no manifest is of these samples" in task.where


def test_records_of_another_method_are_told_by_their_folders_name(tmp_path: Path) -> None:
    """Two methods with the same answers, their record folders swapped."""
    names = [f"Tiny-{method}-0123abcd" for method in ("full", "streaming_llm-512")]
    for abbr, method in zip(names, ("full", "streaming_llm"), strict=True):
        leave_cell(tmp_path, method, "rows", [{"score": 50.0}], facts={"abbr": "rows"})
        for room in ("records", "predictions", "results"):
            (tmp_path / room / f"Tiny-{method}").rename(tmp_path / room / abbr)
    assert find_problems(read_run(tmp_path)) == []
    first, second = (tmp_path / "records" / name for name in names)
    first.rename(tmp_path / "aside")
    second.rename(first)
    (tmp_path / "aside").rename(second)
    problems = find_problems(read_run(tmp_path))
    assert [problem.split(", so nothing")[0] for problem in problems] == [
        f"{names[0]} on rows: its manifest is of streaming_llm",
        f"{names[1]} on rows: its manifest is of full",
    ]
    assert {task.state for task in run_progress(tmp_path)} == {"failed"}


def test_a_result_without_a_figure_is_said(tmp_path: Path) -> None:
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    put(tmp_path / "results" / model / f"{dataset}.json", {"0": {"prediction": "Paris"}})
    assert "its result holds no figure" in one_problem(tmp_path)


def test_a_manifest_in_a_results_place_is_no_figure(tmp_path: Path) -> None:
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    manifest = tmp_path / "records" / model / f"{dataset}.manifest.json"
    (tmp_path / "results" / model / f"{dataset}.json").write_text(manifest.read_text())
    assert "neither its number of samples nor what each scored" in one_problem(tmp_path)


def test_records_of_other_samples_fill_no_gap(tmp_path: Path) -> None:
    """Of three samples one has no record, and there is one of an eighth."""
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    records = tmp_path / "records" / model / f"{dataset}.jsonl"
    records.write_text(records.read_text().replace('"index": 1,', '"index": 7,'))
    assert "1 of 3 predictions have no readable record" in one_problem(tmp_path)
    (task,) = run_progress(tmp_path)
    assert (task.state, task.pace.done) == ("failed", 2)
    assert "1 records are of samples beyond the 3" in check_run(tmp_path).problems[0]


@pytest.mark.parametrize("predicted", ["whole", "parts", "both"])
def test_of_a_dataset_that_ran_split_and_whole_the_scored_one_counts(
    tmp_path: Path, predicted: str
) -> None:
    """An evaluation takes the predictions of the whole, else those of its parts."""
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    records, answers = (tmp_path / room / model for room in ("records", "predictions"))
    lines = (records / f"{dataset}.jsonl").read_text().splitlines(keepends=True)
    told = json.loads((records / f"{dataset}.manifest.json").read_text())
    entries = list(json.loads((answers / f"{dataset}.json").read_text()).values())
    for part, (first, last) in enumerate(((0, 2), (2, 3))):
        own = [{**json.loads(line), "index": i} for i, line in enumerate(lines[first:last])]
        text = "".join(json.dumps(record) + "\n" for record in own)
        (records / f"{dataset}_{part}.jsonl").write_text(text)
        about = {**told["dataset"], "n": last - first, "abbr": f"{dataset}_{part}"}
        put(records / f"{dataset}_{part}.manifest.json", {**told, "dataset": about})
        if predicted != "whole":
            put(answers / f"{dataset}_{part}.json", dict(enumerate(entries[first:last])))
    if predicted == "parts":  # the whole was begun, and the parts went on
        (answers / f"{dataset}.json").unlink()
        (records / f"{dataset}.jsonl").write_text(lines[0])
    (cell,) = read_run(tmp_path)
    assert find_problems([cell]) == [] and sorted(cell.records) == [0, 1, 2]
    assert {task.state for task in run_progress(tmp_path)} == {"done"}
    assert len(run_progress(tmp_path)) == (2 if predicted == "parts" else 1)


@pytest.mark.parametrize("lost", [None, 1.0])
def test_a_likelihood_that_was_not_there_when_it_was_scored(
    tmp_path: Path, lost: float | None
) -> None:
    model, dataset = write_cell(tmp_path, OURS, ANSWERS, nll=[1.0, 1.0, 1.0])
    path = tmp_path / "results" / model / f"{dataset}.json"
    result = json.loads(path.read_text())
    for detail in result["details"]:
        detail["answer_nll"] = 1.0
    result["details"][1]["answer_nll"] = None if lost else 1.0
    path.write_text(json.dumps(result))
    records = tmp_path / "records" / model / f"{dataset}.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[1]["answer_nll"] = lost
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "1 of 3 samples were scored by other answers" in one_problem(tmp_path)


@pytest.mark.parametrize("remade", [0, 1, 2, 3])
def test_of_two_prompts_that_are_one_sample_either_may_be_made_again(
    tmp_path: Path, remade: int
) -> None:
    """Of a document all first prompts come before all second ones."""
    details = [
        {"index": i, "sample": i, "document": 0, "score": 50.0, "prediction": f"a{i} [fact: b{i}]"}
        for i in range(2)
    ]
    records = [{"index": i, "prediction": text} for i, text in enumerate(("a0", "a1", "b0", "b1"))]
    ask = {"facts": {**LEVAL, "n": 4}, "result": {"score": 50.0, "n": 2}}
    leave_cell(tmp_path, "full", "leval-sci_fi", details, records=records, **ask)
    assert find_problems(read_run(tmp_path)) == []
    records[remade]["prediction"] = "other"
    leave_cell(tmp_path, "full", "leval-sci_fi", details, records=records, **ask)
    assert f"1 of 2 samples were scored by other answers than their records hold (sample " \
        f"{remade % 2})" in one_problem(tmp_path)  # fmt: skip


def test_what_is_written_for_others_is_json(tmp_path: Path) -> None:
    """Python's own writer puts NaN, which no other reader takes."""
    run, out = tmp_path / "run", tmp_path / "out"
    cells = [write_cell(run, method, ANSWERS) for method in (FULL, OURS)]
    for model, dataset in cells:
        path = run / "results" / model / f"{dataset}.json"
        result = json.loads(path.read_text())
        for detail in result["details"]:
            detail |= {"depth": math.nan, "reference": {"Paris": math.inf}}
        path.write_text(json.dumps(result))
    by_words("compare", run, run, "--a", "full", "--b", "rea", "--json", tmp_path / "out.json")
    for model, dataset in cells:
        path = run / "records" / model / f"{dataset}.manifest.json"
        about = json.loads(path.read_text())["dataset"]
        changed(path, dataset={**about, "seed": math.nan, "rate": [math.inf, 1.5]})
    by_words("report", run, "--into", out / "report")
    by_words("export", "inspect", run, "--out", out / "inspect")
    by_words("export", "lm-eval", run, "--out", out / "lm-eval")
    texts = [path.read_text() for path in [tmp_path / "out.json", *out.rglob("*.json*")]]
    for path in out.rglob("*.eval"):
        with zipfile.ZipFile(path) as log:
            texts += [log.read(name).decode() for name in log.namelist()]
    assert len(texts) > 15
    assert [text for text in texts if "NaN" in text or "Infinity" in text] == []


def by_words(*words: object) -> None:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("command", ["report", "export inspect", "export lm-eval"])
@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("environment", [{"versions": "x"}], "environment.versions is 'x'"),
        ("dataset", {"max_out_len": "x"}, "dataset.max_out_len is 'x'"),
        ("dataset", {"max_prompt_tokens": [1]}, "dataset.max_prompt_tokens is [1]"),
        ("model", {"settings": {"max_seq_len": "x"}}, "model.settings.max_seq_len is"),
        ("model", {"settings": {"system": 3}}, "model.settings.system is"),
    ],
)
def test_a_field_that_a_command_reads_is_looked_at_before(
    tmp_path: Path, command: str, part: str, value: Any, said: str
) -> None:
    model, dataset = write_cell(tmp_path, OURS, ANSWERS)
    changed(tmp_path / "records" / model / f"{dataset}.manifest.json", **{part: value})
    done = CliRunner().invoke(app, [*command.split(), str(tmp_path)])
    assert done.exit_code == 2 and f"is damaged: {said}" in done.output


def test_a_record_whose_hash_is_no_text_is_none(tmp_path: Path) -> None:
    for method in (FULL, OURS):
        model, dataset = write_cell(tmp_path, method, ANSWERS)
    records = tmp_path / "records" / model / f"{dataset}.jsonl"
    records.write_text(records.read_text().replace(f'"{1:064d}"', '{"a": 1}'))
    words = ["compare", str(tmp_path), str(tmp_path), "--a", "full", "--b", "reattention"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0 and "1 samples are not in both" in done.output
    assert "1 of 3 predictions have no readable record" in one_problem(tmp_path)


@pytest.mark.parametrize("name", ["peak_bytes", "n_tokens", "prefill_seconds", "finished"])
def test_a_record_that_measured_nothing_is_none(tmp_path: Path, name: str) -> None:
    model, dataset = write_cell(tmp_path, FULL, ANSWERS)
    records = tmp_path / "records" / model / f"{dataset}.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    lines[0][name] = math.nan
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "1 of 3 predictions have no readable record" in one_problem(tmp_path)
    (task,) = run_progress(tmp_path)
    assert (task.state, task.pace.done) == ("failed", 2)

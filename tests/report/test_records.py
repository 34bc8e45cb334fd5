"""The schema of records: what is written fits it, older versions are read, newer ones refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_damaged_runs import damaged_run
from typer.testing import CliRunner, Result
from written_run import FULL, OURS, put, write_cell

from reattention_eval.cli import app
from reattention_eval.errors import DataError
from reattention_eval.harness.manifest import environments
from reattention_eval.harness.record_file import RecordFile, RecordLines
from reattention_eval.report import build_report
from reattention_eval.report.check import check_run, wrong_record
from reattention_eval.report.fields import wrong_manifest
from reattention_eval.report.records import read_records
from reattention_eval.report.run import read_run
from reattention_eval.report.schema import ANSWERED, COMMON, FAILED, VERSION, migrated

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_cell(tmp_path, FULL, ["Paris", "Rome"])
    write_cell(tmp_path, OURS, ["Paris", "Rome"])
    return tmp_path


def check(run: Path) -> Result:
    return CliRunner().invoke(app, ["report", str(run), "--check"])


def records(run: Path) -> Path:
    return next(run.glob("records/tiny-full/*.jsonl"))


def test_a_whole_run_is_as_documented(run: Path) -> None:
    result = check(run)
    assert result.exit_code == 0, result.output
    assert "4 records (4 of version 2" in result.output and "0 problem(s)" in result.output


def change(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda record: record.update({name: value})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: r.pop("prompt_sha256"), "line 1: prompt_sha256 is missing."),
        (change("n_tokens", "4000"), "line 1: n_tokens is '4000', no count."),
        (change("head_ids", list(range(4096))), "line 1: head_ids is [0, 1, 2"),
        (change("hidden_states", [[0.5] * 64]), "hidden_states is in no version of the schema"),
        (change("seconds", -1.0), "line 1: seconds is -1.0, no number."),
        (change("attention", "a" * 100_000), "bytes: something large that is no answer"),
        (lambda r: r.pop("prediction"), "neither prediction nor value nor error."),
        (change("index", 7), "1 records are of samples beyond the 2"),
        (change("error", "ValueError: x"), "predictions, yet sample 0 failed"),
    ],
)
def test_what_does_not_fit_is_said(run: Path, spoil: Callable[[Any], Any], said: str) -> None:
    path = records(run)
    first, *rest = path.read_text().splitlines(keepends=True)
    record = json.loads(first)
    spoil(record)
    path.write_text("".join([json.dumps(record) + "\n", *rest]))
    result = check(run)
    assert result.exit_code == 1
    assert said in result.output.replace("\n", " ").replace("  ", " ")


def test_damage_that_readers_pass_over_is_said(run: Path) -> None:
    with records(run).open("a") as file:
        file.write('[1]\n{"index": \n{"index": 3')
    result = check(run)
    assert result.exit_code == 1
    for said in ("no end: a kill cut it off", "line 3 is a list", "line 4 is not JSON"):
        assert said in result.output
    put(next(run.glob("records/tiny-full/*.manifest.json")), {"version": 2, "model": {}})
    assert "it has no method" in check(run).output


def test_an_answer_of_megabytes_is_no_damage(run: Path) -> None:
    path = records(run)
    record = json.loads(path.read_text().splitlines()[0]) | {"prediction": "\u2028" * 1_000_000}
    path.write_text(json.dumps(record) + "\n" + path.read_text().split("\n")[1] + "\n")
    assert check(run).exit_code == 0


@pytest.mark.parametrize("what", ["record", "manifest"])
def test_a_newer_version_is_refused_in_one_sentence(run: Path, what: str) -> None:
    path = records(run)
    if what == "record":
        with path.open("a") as file:
            file.write('{"version": 3, "index": 5, "n_tokens": {"prompt": 5}}\n')
    else:
        path = next(run.glob("records/tiny-full/*.manifest.json"))
        put(path, {"version": 3, "method": "another shape"})
    for words in (["report", str(run)], ["report", str(run), "--check"], ["status", str(run)],
                  ["compare", str(run), str(run), "--a", "full", "--b", "rea"]):  # fmt: skip
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2, words
        assert "is of version 3 of a run's files" in result.output.replace("\n", "")
    with pytest.raises(DataError, match="version 3"):  # a run is not gone on with either
        RecordFile(path, ["k"]) if what == "record" else environments(path)


def test_the_first_version_is_read(run: Path) -> None:
    """No version, times or seconds; manifests that name one process; a needle's style."""
    path = records(run)
    old = [json.loads(line) for line in path.read_text().splitlines()]
    for record in old:
        for name in ("version", "finished", "seconds", "must_select", "reused_tokens"):
            del record[name]
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    manifest = path.with_name(path.stem + ".manifest.json")
    told = json.loads(manifest.read_text())
    del told["version"]
    told["environment"] = told["environment"][0]
    for name in ("task", "benchmark"):
        del told["dataset"][name]
    put(manifest, {**told, "dataset": {**told["dataset"], "style": "magic_number"}})
    found = check_run(run)
    assert found.problems == [] and found.versions == {1: 2, 2: 2}
    cell = next(cell for cell in read_run(run) if cell.model == "tiny-full")
    assert cell.manifest["version"] == VERSION
    assert cell.manifest["dataset"]["task"] == "magic_number"
    assert cell.manifest["dataset"]["benchmark"] == "needle"
    assert environments(manifest) == [told["environment"]]
    assert RecordFile(path, ["k0", "k1"]).done.keys() == {0, 1}
    build_report(run)
    result = CliRunner().invoke(app, ["status", str(run)], env={"COLUMNS": "200"})
    assert "2 / 2" in result.output and "2,0" in result.output  # tokens/s of prefill and decode


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*/manifest.json")), ids=str)
def test_manifests_of_committed_results_are_read(path: Path) -> None:
    for datasets in json.loads(path.read_text()).values():
        for manifest in datasets.values():
            assert wrong_manifest(manifest) is None
            whole = migrated(manifest, path)
            assert whole["version"] == VERSION and isinstance(whole["environment"], list)
            assert whole["dataset"]["benchmark"] and whole["dataset"]["task"]


def test_what_is_written_says_its_version_and_when(tmp_path: Path) -> None:
    lines = RecordLines(tmp_path / "records" / "d.jsonl")
    written = lines.append({"index": 0, "key": "a"}, {"index": 1, "key": "b"})
    assert list(read_records(lines.path).values()) == written
    assert {r["version"] for r in written} == {VERSION}
    assert written[0]["finished"] == pytest.approx(lines.path.stat().st_mtime, abs=2)
    assert written[0]["seconds"] == written[1]["seconds"] >= 0
    assert list(wrong_record({**written[0], "error": "E: x"})) == []


def test_docs_have_every_field() -> None:
    text = (ROOT / "docs" / "records.md").read_text(encoding="utf-8")
    for name, field in {**COMMON, **FAILED, **ANSWERED}.items():
        need = "yes" if field.required else "no"
        row = f"| `{name}` | {field.kind} | {need} | {field.meaning} |"
        assert row in text, f"docs/records.md lacks: {row}"
    assert f"version {VERSION}" in text


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_damaged_runs_end_in_a_sentence(data: st.DataObject) -> None:
    """Every reader of runs, on what `test_damaged_runs` does to their files."""
    with damaged_run(data) as folder:
        run = str(folder)
        for words in (
            ["status", run], ["report", run, "--check"], ["export", "inspect", run],
            ["export", "lm-eval", run], ["compare", run, run, "--a", "full", "--b", "reatt"],
            ["curve", run, "--out", f"{run}/curve"], ["answers", run, "--out", f"{run}/answers"],
        ):  # fmt: skip
            result = CliRunner().invoke(app, words)
            assert result.exception is None or isinstance(result.exception, SystemExit), words
            assert result.exit_code in (0, 1, 2), result.output

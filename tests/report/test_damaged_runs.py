"""Generated damage of a run's folder: the report is made, or one of our errors says why not."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs_by_hand import answers
from typer.testing import CliRunner

from reattention_eval.cli import app
from reattention_eval.errors import ReAttentionError
from reattention_eval.harness.record_file import RecordFile
from reattention_eval.harness.sample_run import environments
from reattention_eval.report import build_report
from reattention_eval.report.progress import progress_line

SECONDS = 3.0  # of a processor; a second on a fast one
ODD = st.one_of(
    st.sampled_from(
        [None, True, "", "x", "$x^$", "\ud800", "../..", "a/b", 0, -1, 10**30, 2**63, 0.5, 1e308,
         float("nan"), float("inf"), -float("inf"), [], {}, [[]], [{}], {"n": 1}, [1, "2", None]]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
)  # fmt: skip
RAW = st.sampled_from(
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"[" * 500 + b"]" * 500, b"[" * 100_000, b"\xff\xfe",
     b'{"a": ' * 500 + b"1" + b"}" * 500, b"9" * 5000, b'{"n": 1e999}', b'{"n": ' + b"9" * 400 +
     b"}", b'{"error": "\\ud800"}', b"\x00", b'{"index": 0}', b'{"index": -1, "key": "k"}']
)  # fmt: skip


def good_run(folder: Path) -> list[Path]:
    """Two methods on two lengths of needles, as evaluations leave them."""
    paths = []
    for method, budget in (("full", None), ("reattention", 4096)):
        for length in (4096, 12288):
            model, dataset = f"m-{method}", f"needle-{length}"
            details = [
                {"depth": d, "length": length, "accuracy": 100.0, "answer_nll": 1.0}
                for d in (0, 50, 100)
            ]
            records = [
                {"index": i, "key": f"k{i}", "gold": "g", "prediction": "p", "n_tokens": length,
                 "n_cut": 0, "answer_nll": 1.0, "prefill_seconds": 1.0, "must_select": False,
                 "mean_view": 10.0, "layer_steps_selected": 3, "layer_steps": 4}
                for i in range(3)
            ]  # fmt: skip
            manifest = {
                "model": {"name": "Tiny", "trained_window": 8192, "settings": {}},
                "method": {"name": method, "budget": budget, "settings": {"local_size": 1024}},
                "dataset": {"abbr": dataset, "n": 3, "length": length, "benchmark": "needle"},
                "environment": [],
            }
            texts = {
                f"results/{model}/{dataset}.json": json.dumps(
                    {"accuracy": 100.0, "answer_nll": 1.0, "n": 3, "details": details}
                ),
                f"predictions/{model}/{dataset}.json": json.dumps(answers(3)),
                f"records/{model}/{dataset}.jsonl": "".join(json.dumps(r) + "\n" for r in records),
                f"records/{model}/{dataset}.manifest.json": json.dumps(manifest),
            }
            for name, text in texts.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
                paths.append(path)
    (folder / "report").mkdir()
    expected = folder / "report" / "expected.json"
    cells = [[f"m-{m}", f"needle-{n}"] for m in ("full", "reattention") for n in (4096, 12288)]
    models = {"m-full": {"model": {"name": "Tiny"}, "method": {"name": "full", "budget": None}}}
    about = {f"needle-{n}": {"benchmark": "needle", "length": n} for n in (4096, 12288)}
    expected.write_text(json.dumps({"cells": cells, "datasets": about, "models": models}))
    return [*paths, expected]


@st.composite
def damage(draw: st.DrawFn, value: Any) -> Any:
    """`value` with something odd somewhere in it."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: draw(damage(value[key]))}
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], draw(damage(value[at])), *value[at + 1 :]]
    return draw(ODD)


def damage_file(data: st.DataObject, path: Path) -> None:
    kind = data.draw(st.sampled_from(["value", "value", "value", "raw", "cut", "gone", "folder"]))
    content = path.read_bytes()
    if kind == "raw":
        path.write_bytes(data.draw(RAW))
    elif kind == "cut":
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    elif kind in ("gone", "folder"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    elif path.suffix == ".jsonl":
        lines = content.splitlines()
        at = data.draw(st.integers(0, len(lines) - 1))
        lines[at] = json.dumps(data.draw(damage(json.loads(lines[at])))).encode()
        path.write_bytes(b"\n".join(lines) + b"\n")
    else:
        path.write_text(json.dumps(data.draw(damage(json.loads(content)))))


@contextmanager
def damaged_run(data: st.DataObject) -> Iterator[Path]:
    """A good run's folder, one to three of its files damaged."""
    folder = Path(tempfile.mkdtemp(prefix="damaged-"))
    try:
        paths = good_run(folder)
        for path in data.draw(
            st.lists(st.sampled_from(paths), min_size=1, max_size=3, unique=True)
        ):
            damage_file(data, path)
        yield folder
    finally:
        shutil.rmtree(folder)


# each ends with a status, and with a sentence where it does nothing
COMMANDS = (
    "report RUN --html", "report RUN --by-family", "report RUN --check", "status RUN",
    "curve RUN --out RUN/curve", "answers RUN --out RUN/answers.md", "export inspect RUN",
    "export lm-eval RUN", "compare RUN RUN --a full --b reattention --json RUN/differences.json",
)  # fmt: skip


def check_damaged(data: st.DataObject, command: bool) -> None:
    with damaged_run(data) as folder:
        begun = time.process_time()
        if command:
            for words in data.draw(st.permutations(COMMANDS))[:3]:
                named = [word.replace("RUN", str(folder)) for word in words.split()]
                result = CliRunner().invoke(app, named)
                assert result.exit_code in (0, 1, 2), (words, result.output)
                assert result.exit_code != 2 or result.output.startswith("error: "), words
                assert result.exception is None or isinstance(result.exception, SystemExit), words
        else:
            with suppress(ReAttentionError):
                build_report(folder)
        progress_line(folder)
        for path in (folder / "records").glob("*/*.jsonl"):
            if not path.is_file():
                continue
            # `-r` goes on: what is taken over is what was written, the rest is run again
            done = RecordFile(path, [f"k{i}" for i in range(3)]).done
            assert all(r["key"] == f"k{i}" and isinstance(r["prediction"], str)
                       for i, r in done.items())  # fmt: skip
            environments(path.with_name(path.stem + ".manifest.json"))
        assert time.process_time() - begun < SECONDS * (3 if command else 1)


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@pytest.fixture(autouse=True)
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure is built; to render it takes a second."""

    def save(figure: Any, target: Any, **_: Any) -> None:
        if isinstance(target, io.StringIO):
            target.write('<svg xmlns="http://www.w3.org/2000/svg" width="1pt"/>')

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", save)


@settings(
    max_examples=20, deadline=None, derandomize=True,
    suppress_health_check=[*QUIET, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.data())
def test_a_damaged_run_is_reported_or_refused(data: st.DataObject) -> None:
    check_damaged(data, command=False)


@pytest.mark.slow
@settings(
    max_examples=400, deadline=None,
    suppress_health_check=[*QUIET, HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(st.data())
def test_storm_of_damaged_runs(data: st.DataObject) -> None:
    check_damaged(data, command=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    good_run(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "report")
    (tmp_path / "run" / "report").write_text("")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert "the report cannot be written to" in result.output.replace("\n", " ")


def test_half_a_surrogate_in_an_error_is_spelled_out(tmp_path: Path) -> None:
    good_run(tmp_path)
    record = tmp_path / "records" / "m-full" / "needle-4096.jsonl"
    record.write_text(json.dumps({"index": 0, "error": "ValueError: \ud800 in the text"}) + "\n")
    problems = build_report(tmp_path).problems
    assert any("ValueError: \\ud800 in the text" in problem for problem in problems)
    assert "\\ud800 in the text" in (tmp_path / "report" / "table.md").read_text()


def test_predictions_without_records_are_a_problem(tmp_path: Path) -> None:
    good_run(tmp_path)
    (tmp_path / "records" / "m-reattention" / "needle-12288.jsonl").write_bytes(b"[" * 100_000)
    (problem,) = build_report(tmp_path).problems
    assert "3 of 3 predictions have no readable record" in problem

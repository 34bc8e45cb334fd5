"""The command line: what it prints and the status it ends with."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from reattention_eval.cli import app, demo
from reattention_eval.cli.configs import config_path
from reattention_eval.harness.compose import embedded_models
from reattention_eval.methods import list_methods

# stands for opencompass: leaves a run behind, tells what it was given, ends with a status
STAND_IN = """
import json, os, pathlib, sys
run = pathlib.Path(sys.argv[1]) / "20260101_000000"
(run / "configs").mkdir(parents=True)
(run / "results" / "m").mkdir(parents=True)
(run / "results" / "m" / "d.json").write_text('{"accuracy": 75.0, "n": 4}')
(run / "predictions" / "m").mkdir(parents=True)
(run / "predictions" / "m" / "d.json").write_text('{"0": {}}')
own = {k: v for k, v in os.environ.items() if k.startswith("REATTENTION_")}
given = {k: v for k, v in own.items() if k != "REATTENTION_CACHE"}
(run / "given.json").write_text(json.dumps([given, os.getcwd()]))
print("words of opencompass")
sys.exit(int(sys.argv[2]))
"""


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_methods_lists_every_method_with_its_source() -> None:
    result = invoke("methods")
    assert result.exit_code == 0
    for name in list_methods():
        assert name in result.output
    assert "arXiv" in result.output
    assert "8,192" in result.output


def test_doctor_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("COLUMNS", "200")
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    assert "reattention-eval prepare model smollm2-135m" in result.output
    assert "reattention-eval prepare model qwen2.5-coder-1.5b-q4" in result.output
    assert "transformers" in result.output


def test_doctor_fails_where_the_cache_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "file" / "below"))
    assert invoke("doctor").exit_code == 1


def test_an_unknown_set_to_prepare_lists_those_that_exist() -> None:
    result = invoke("prepare", "nothing")
    assert result.exit_code == 2
    assert "there are: demo" in result.output


def test_report_needs_a_run(tmp_path: Path) -> None:
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no run" in result.output


def test_report_ends_with_1_where_something_is_missing(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "predictions" / "m").mkdir(parents=True)
    (tmp_path / "predictions" / "m" / "d.json").write_text('{"0": {}}')
    result = invoke("report", str(tmp_path))
    assert result.exit_code == 1
    assert "m on d: predicted and not scored" in result.output


def test_configurations_are_found() -> None:
    assert config_path("eval_demo.py").name == "eval_demo.py"
    assert (config_path("eval_demo.py").parent / "methods" / "__init__.py").is_file()
    result = invoke("demo", "--repeats", "0")
    assert result.exit_code == 2


@pytest.mark.parametrize("status", [0, 3])
def test_demo_hands_on_choices_and_status(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(
        demo, "command", lambda config, work: [sys.executable, str(script), str(work), str(status)]
    )
    text = tmp_path / "text.txt"
    text.write_text("Words.")
    shutil.copytree(checkpoint, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(text))
    result = invoke(
        "demo", "--model", "model", "--lengths", "600,700", "--repeats", "2", "--work-dir", "out"
    )
    assert result.exit_code == status, result.output
    run = tmp_path / "out" / "20260101_000000"
    given, cwd = json.loads((run / "given.json").read_text())
    assert given == {
        "REATTENTION_RUN_MODEL": str(tmp_path / "model"),
        "REATTENTION_LENGTHS": "600,700",
        "REATTENTION_REPEATS": "2",
        "REATTENTION_HAYSTACK": str(text),
    }
    assert Path(cwd) != tmp_path  # opencompass leaves files where it is started
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["20260101_000000"]
    assert "words of opencompass" in (run / "logs" / "opencompass.log").read_text()
    assert "75.0 (n=4)" in result.output
    assert str(run / "report" / "table.md") in result.output.replace("\n", "")


def test_stopping_the_demo_stops_the_tasks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """opencompass starts its tasks as processes of their own."""
    task = (
        f"import os, pathlib, time; os.chdir({str(tmp_path)!r}); pathlib.Path('begun').touch(); "
        "time.sleep(2); pathlib.Path('alive').touch()"
    )
    main = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {task!r}])"
    monkeypatch.setattr(demo, "command", lambda config, work: [sys.executable, "-c", main])

    def interrupted(*_: object) -> int:
        while not (tmp_path / "begun").exists():
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        demo._run(tmp_path / "c.py", tmp_path / "out", dict(os.environ))
    time.sleep(3)
    assert not (tmp_path / "alive").exists()


def test_demo_fetches_an_embedded_model_by_name(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "qwen2.5-coder-0.5b-q4"
    (tmp_path / "text.txt").write_text("Words.")
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(tmp_path / "text.txt"))
    fetched = []
    monkeypatch.setattr(demo, "fetch_model", fetched.append)
    monkeypatch.setattr(embedded_models, "prepared_model_folder", lambda name: checkpoint)
    monkeypatch.setattr(
        demo, "command", lambda *_: [sys.executable, "-c", "raise SystemExit('no such')"]
    )
    result = invoke("demo", "--model", name, "--work-dir", str(tmp_path / "out"))
    assert fetched == [name]
    assert result.exit_code == 1 and "no such" in result.output, result.output


def test_demo_shows_why_nothing_began(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        demo, "command", lambda config, work: [sys.executable, "-c", "raise SystemExit('no such')"]
    )
    (tmp_path / "text.txt").write_text("Words.")
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(tmp_path / "text.txt"))
    result = invoke("demo", "--model", str(checkpoint), "--work-dir", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "no such" in result.output

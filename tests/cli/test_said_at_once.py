"""What is known before a model loads is said at once: a sentence, no traceback, nothing started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reattention_eval.cli import app, demo
from reattention_eval.cli.configs import config_path
from reattention_eval.harness.plain_errors import STATUS

SECONDS = 3.0  # after imports, on a busy machine


def without_chat(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def cut_weights(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100)


def listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def damaged_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{")


@pytest.fixture
def model(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text("Words are here. " * 4000)
    monkeypatch.setenv("REATTENTION_HAYSTACK", str(tmp_path / "text.txt"))
    monkeypatch.setenv("REATTENTION_LENGTHS", "2000")
    # nobody listens there
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    return shutil.copytree(checkpoint, tmp_path / "model")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--depths", "150"], "depths are percent from 0 to 100; found 150"),
        (["--depths", "nan"], "depths are percent from 0 to 100; found nan"),
        (["--depths", "ten"], "separated by commas"),
        (["--lengths", "5"], "a length of 5 tokens leaves no room for the haystack"),
        (["--lengths", "-1"], "lengths [-1]"),
        (["--lengths", "1e3"], "whole numbers separated by commas"),
        (["--methods", "full,fast"], "fast"),
        (["--model", "nobody/nothing"], "nobody/nothing"),
        (["--model", "no such folder"], "no such folder"),
    ],
)
def test_choices_that_cannot_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    refused(model, tmp_path, monkeypatch, words, said)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (without_chat, "has no chat template"),
        (cut_weights, "model.safetensors is not a whole safetensors file"),
        (listed_config, "it holds a list, not an object"),
        (damaged_tokenizer, "the tokenizer of"),
    ],
)
def test_models_that_cannot_work(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: object, said: str
) -> None:
    assert callable(damage)
    damage(model)
    refused(model, tmp_path, monkeypatch, [], said)


def refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
) -> None:
    monkeypatch.setattr(demo, "_run", lambda *_: pytest.fail("it was started"))
    words = words if "--model" in words else ["--model", str(model), *words]
    begun = time.monotonic()
    result = CliRunner().invoke(app, ["demo", "--work-dir", str(tmp_path / "out"), *words])
    assert time.monotonic() - begun < SECONDS
    assert result.exit_code == 2, result.output
    assert result.output.startswith("error: ") and "Traceback" not in result.output
    assert said in result.output
    assert not (tmp_path / "out").exists()


def test_what_can_work_is_started(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_run", lambda *_: 7)
    words = ["demo", "--model", str(model), "--work-dir", str(tmp_path / "out")]
    assert CliRunner().invoke(app, words).exit_code == 7


def test_a_work_dir_that_is_none_is_said_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").write_text("")
    monkeypatch.setattr(demo, "_run", lambda *_: pytest.fail("it was started"))
    words = ["demo", "--model", str(model), "--work-dir", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2 and str(tmp_path / "out") in result.output.replace("\n", "")


@pytest.mark.parametrize(
    ("variable", "said"),
    [("REATTENTION_DEPTHS=150", "depths are percent"), ("REATTENTION_RUNNER=my", "slurm")],
)
def test_opencompass_itself_says_it_plainly(
    model: Path, tmp_path: Path, variable: str, said: str
) -> None:
    """A process of its own: the partitioner finds the one, the configuration the other."""
    name, value = variable.split("=")
    environment = {**os.environ, "REATTENTION_RUN_MODEL": str(model), name: value}
    command = demo.command(config_path("eval_demo.py"), tmp_path / "out")
    assert command[0] == sys.executable
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == STATUS
    assert "Traceback" not in done.stderr + done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert said in line

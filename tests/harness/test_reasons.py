"""Why a task failed, where the user is looking."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config

from reattention_eval.errors import ConfigError
from reattention_eval.harness import local_runner, plain_errors
from reattention_eval.harness.configuration import read_configuration
from reattention_eval.harness.local_runner import SayingLocalRunner
from reattention_eval.harness.runners import INFER_TASK
from reattention_eval.report.task_logs import reasons, said_errors, said_line


class Lines:
    def __init__(self) -> None:
        self.said: list[str] = []

    def error(self, line: str) -> None:
        self.said.append(line)


def test_the_runner_says_why_each_dataset_failed(
    task_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process of its own, as in a run."""
    lines = Lines()
    monkeypatch.setattr(local_runner, "get_logger", lambda: lines)
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    rows = [{"prompt": "the dog", "answer": "fox"}]
    whole = task_config(rows, inferencer={"prompt_column": "no such column"})
    whole.datasets[0].append({**task_config([{"prompt": " ", "answer": "x"}]).datasets[0][0]})
    whole.datasets[0][1]["abbr"] = "empty"
    runner = SayingLocalRunner({"type": INFER_TASK}, max_num_workers=1)
    assert [status for _, status in runner.launch([whole])] == [1]
    first, second = lines.said
    assert first.startswith("error: tiny on rows: the dataset has no column 'no such column'")
    assert second.startswith("error: tiny on empty: 1 samples failed (sample 0: ConfigError: the")
    assert {*lines.said} == {*said_errors(Path(whole.work_dir))}


def test_the_reason_in_a_log(tmp_path: Path) -> None:
    log = tmp_path / "task.out"
    assert reasons(log) == []
    log.write_text("loading\nTraceback (most recent call last):\n  x\nValueError: no\nbye\n")
    assert reasons(log) == ["error: ValueError: no"]
    log.write_text("Segmentation fault\n\n")
    assert reasons(log) == ["error: Segmentation fault"]
    line = said_line("m on d: ", ConfigError("one\ntwo"))
    log.write_text(f"a\n{line}\nKeyError: 3\n")
    assert reasons(log) == ["error: m on d: one two"]
    assert said_line("", KeyError("x")) == "error: KeyError: 'x'"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.py", "import nothing_of_that_name", "it has no list of models"),
        ("a.py", "print('hello')", "it has no list of models"),
        ("a.py", "x = (", "SyntaxError"),
        ("a.py", "import sys\nsys.exit(3)", "cannot be read as a configuration (SystemExit: 3)"),
        ("a.py", "1 / 0", "ZeroDivisionError"),
        ("a.py", "models = 3\ndatasets = []", "it has no list of models"),
        ("a.py", "models = [1]\ndatasets = []", "of its models 1 is no dictionary"),
        ("a.py", "models = []\ndatasets = [dict(abbr='a/b')]", "is no dictionary with a name"),
        ("a.py", "models = []\ndatasets = []\nwork_dir = 3", "its work_dir is 3"),
        ("a.py", "models = []\ndatasets = []\nmodel_dataset_combinations = [3]", "dictionaries"),
        ("a.json", "[1, 2]", "a.json"),
        ("a.json", "[" * 100_000, "a.json"),
        ("a.txt", "models = []", "a.txt"),
    ],
)
def test_what_is_no_configuration_is_named(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_configuration(path)
    assert said in str(raised.value) and str(path) in str(raised.value)


def test_a_configuration_is_read_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("models = [dict(abbr='m', path='p')]\ndatasets = []\n")
    read = read_configuration(tmp_path / "a.py")
    assert isinstance(read, Config) and read.models[0].abbr == "m"


def test_other_programs_keep_their_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    plain_errors.say_plainly()
    assert sys.excepthook is sys.__excepthook__
    monkeypatch.setattr(sys, "argv", ["/usr/bin/opencompass", "x.py"])
    plain_errors.say_plainly()
    assert sys.excepthook is not sys.__excepthook__


def test_a_disk_that_refuses_opencompass_itself_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/opencompass", "x.py"])
    plain_errors.say_plainly()
    for number, said in ((errno.EROFS, "written"), (errno.EACCES, "read or written")):
        error = OSError(number, os.strerror(number), "outputs/run/configs")
        sys.excepthook(OSError, error, None)
        told = capsys.readouterr().err
        assert told.startswith(f"error: outputs/run/configs cannot be {said} ({error.strerror});")
        assert "start this run again" in told and told.count("\n") == 1
    sys.excepthook(OSError, OSError(errno.ENOSPC, "No space left on device"), None)
    assert "a file of the run cannot be written (No space" in capsys.readouterr().err
    sys.excepthook(OSError, OSError(errno.ENOENT, "No such file", "x"), None)
    assert capsys.readouterr().err.startswith("FileNotFoundError")  # a program's mistake

"""Two runs in one folder write no file at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from reattention_eval.harness.tasks import (
    LongContextEvalTask,
    LongContextInferTask,
    eval_task,
)
from reattention_eval.report.task_logs import said_errors
from reattention_eval.whole_file import whole_file

ROWS = [{"prompt": "The dog thinks of the fox.", "answer": "fox"}]


def test_a_log_is_written_by_one_of_them(task_config: Any) -> None:
    config = task_config(ROWS)

    def begin() -> tuple[Any, Path]:
        task = LongContextInferTask(config)
        path = Path(task.get_log_path(file_extension="out"))
        assert path == Path(task.get_log_path(file_extension="out"))
        return task, path

    first, log = begin()
    log.write_text("error: of the first\n")
    second, other = begin()
    other.write_text("error: of the second\n")
    assert (log.name, other.name) == ("rows.out", "rows.2.out")
    assert said_errors(Path(config.work_dir)) == ["error: of the second", "error: of the first"]
    with log.open("a") as late:  # a task that outlives its run for a moment
        del first, second
        third, path = begin()
        path.write_text("error: of the third\n")
        late.write("cut off")
    assert path == log and said_errors(Path(config.work_dir)) == ["error: of the third"]
    del third


def test_a_log_has_its_name_also_where_nothing_can_be_locked(task_config: Any) -> None:
    config = task_config(ROWS)
    Path(config.work_dir).mkdir()
    (Path(config.work_dir) / "logs").write_text("no folder")
    path = LongContextEvalTask(config).get_log_path(file_extension="out")
    assert path == str(Path(config.work_dir) / "logs" / "eval" / "tiny" / "rows.out")


def test_a_result_waits_for_who_writes_it(
    task_config: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    config = task_config(ROWS)
    LongContextInferTask(config).run()
    work = Path(config.work_dir)
    monkeypatch.setattr(eval_task, "LOCK_SECONDS", 0.1)
    with FileLock(work / "records" / "tiny" / "rows.lock"):
        with pytest.raises(SystemExit, match="not scored: tiny/rows"):
            LongContextEvalTask(config).run()
        assert "another process is writing" in capfd.readouterr().err
    assert not list(work.glob("results/tiny/*"))
    LongContextEvalTask(config).run()
    assert len(list(work.glob("results/tiny/*"))) == 1


def test_a_result_that_another_run_has_written_meanwhile_stays(
    task_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill in the middle of a second one would leave a file that no run removes."""
    config = task_config(ROWS)
    LongContextInferTask(config).run()
    work, held = Path(config.work_dir), eval_task.held
    result = work / "results" / "tiny" / "rows.json"

    @contextmanager
    def after_another(*asked: Any) -> Iterator[None]:
        result.parent.mkdir(parents=True)
        result.write_text("the other run's")
        with held(*asked):
            yield

    monkeypatch.setattr(eval_task, "held", after_another)
    LongContextEvalTask(config).run()
    assert result.read_text() == "the other run's"
    assert not (work / "unfinished").exists()


def test_two_writers_of_a_file_take_turns(tmp_path: Path) -> None:
    path, inside = tmp_path / "a.json", threading.Event()
    path.with_name("a.json.part").write_bytes(b"what a kill left, which is long")

    def second() -> None:
        inside.wait()
        with whole_file(path) as file:
            file.write(b"second")

    other = threading.Thread(target=second)
    other.start()
    with whole_file(path) as file:
        file.write(b"the first, ")
        inside.set()
        time.sleep(0.2)  # the other is there by now
        assert not path.exists()
        file.write(b"to its end")
    other.join()
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(TypeError), whole_file(path) as file:
        file.writelines([b"half", "no bytes"])  # type: ignore[list-item]
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]

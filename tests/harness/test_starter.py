"""A task ends with the process that started it, and with no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reattention_eval.harness.starter import this_process
from reattention_eval.harness.tasks import LongContextEvalTask, LongContextInferTask
from reattention_eval.processes import born, lives

# a task that does nothing but to end with its starter; the starter tells its number and waits
TASK = "import sys, time; from reattention_eval.harness.starter import end_with; "
TASK += "end_with(sys.argv[1]); print('task', flush=True); time.sleep(120)"
STARTER = """
import subprocess, sys, time
from reattention_eval.harness.starter import this_process
words = [sys.executable, "-c", sys.argv[1], this_process()]
print(subprocess.Popen(["sh", "-c", '"$@" & wait', "-", *words]).pid, flush=True)
time.sleep(120)
"""


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "120"])
    yield process
    process.kill()
    process.wait()


def test_a_process_is_known_by_number_and_birth(sleeper: subprocess.Popen[bytes]) -> None:
    pid, when = sleeper.pid, born(sleeper.pid)
    assert when.isdigit() and lives(pid) and lives(pid, when)
    assert not lives(pid, str(int(when) + 1))  # another process under its number
    sleeper.kill()
    wait(lambda: not lives(pid, when))  # though nobody has asked for its status
    assert Path(f"/proc/{pid}").exists() and sleeper.returncode is None
    sleeper.wait()
    assert not lives(pid) and born(pid) == ""
    assert not lives(0) and not lives(-1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_behind_a_starter_that_was_killed_nothing_goes_on(number: int) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, TASK], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert starter.stdout is not None and starter.stderr is not None
    shell = int(starter.stdout.readline())
    assert starter.stdout.readline() == b"task\n"
    starter.send_signal(number)
    starter.wait(20)
    # the task's end closes the last writer of both
    assert b"the process that started this task has ended" in starter.stderr.read()
    wait(lambda: not lives(shell))


def test_of_another_machine_s_processes_nothing_is_concluded() -> None:
    words = [sys.executable, "-c", TASK.replace("time.sleep(120)", "time.sleep(2.5)"),
             "elsewhere:999999:1"]  # fmt: skip
    assert subprocess.run(words, stdout=subprocess.DEVNULL, timeout=60).returncode == 0


def test_every_command_names_who_started_it(task_config: Callable[..., Any]) -> None:
    config = task_config([{"prompt": "the dog", "answer": "fox"}])
    for task in (LongContextInferTask(config), LongContextEvalTask(config)):
        command = task.get_command("task.py", "{task_cmd}")
        assert command.endswith(f"_task.py task.py {this_process()}")
    assert this_process().split(":")[-2:] == [str(os.getpid()), born(os.getpid())]


def wait(condition: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)

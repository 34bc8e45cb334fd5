"""What ends the demo ends what it started: real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# opencompass starts a shell, and the shell a task
TASK = """
import os, pathlib, signal, time
if os.environ.get("STUBBORN"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("{folder}/pid").write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
MAIN = """
import os, sys
from pathlib import Path
from reattention_eval.cli import demo
demo.GRACE_SECONDS = 1.0
script = "import subprocess; subprocess.run({task!r}, shell=True)"
demo.command = lambda config, work: [sys.executable, "-c", script]
demo._run(Path("c.py"), Path({folder!r}) / "out", dict(os.environ))
"""


def alive(pid: int) -> bool:
    """Whether it runs; a child that nobody has waited for is over as well."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: object, seconds: float = 60.0) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "stubborn"),
    [(signal.SIGTERM, False), (signal.SIGHUP, True)],
    ids=["SIGTERM", "SIGHUP, and a task that ignores SIGTERM"],
)
def test_a_signal_ends_the_evaluation(
    tmp_path: Path, number: signal.Signals, stubborn: bool
) -> None:
    (tmp_path / "task.py").write_text(TASK.format(folder=tmp_path))
    task = f"{sys.executable} {tmp_path / 'task.py'}; true"
    main = subprocess.Popen(
        [sys.executable, "-c", MAIN.format(task=task, folder=str(tmp_path))],
        env={**os.environ, **({"STUBBORN": "1"} if stubborn else {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        main.send_signal(number)
        status = main.wait(30)
    finally:
        main.kill()
    assert status == 128 + number
    wait_for(lambda: not alive(pid), 5)

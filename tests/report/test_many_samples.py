"""A hundred thousand samples make a report in under a minute and 2 GB."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from written_run import write_cell

METHODS = [("full", None), ("reattention", 2048), ("streaming_llm", 2048), ("snapkv", 2048)]
TASKS, EACH = 25, 1000


@pytest.mark.slow
def test_a_hundred_thousand_samples(tmp_path: Path) -> None:
    answers = [["Paris", f"Rome {i} " + "and so on " * 12][i % 3 > 0] for i in range(EACH)]
    for method in METHODS:
        for task in range(TASKS):
            scores = [(7 * i + task) % 101 / 1.01 for i in range(EACH)]
            write_cell(tmp_path, method, answers, task=f"task{task}", scores=scores)
    code = "from reattention_eval.cli import app; app()"
    begun = time.monotonic()
    command = [sys.executable, "-c", code, "report", str(tmp_path), "--html"]
    report = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(report.pid, 0)  # of this child, whatever others took before
    report.returncode = os.waitstatus_to_exitcode(status)
    assert report.returncode == 0
    wall = time.monotonic() - begun
    seconds = used.ru_utime + used.ru_stime
    print(f"{seconds:.1f} s of one core, {wall:.1f} s, {used.ru_maxrss / 2**20:.2f} GB")
    assert seconds < 60
    assert used.ru_maxrss < 2 * 2**20  # kB

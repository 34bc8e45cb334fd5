"""The Hopper kernel keeps what makes it fast: hardly a spill, and products that overlap."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

SHARED_PER_SM = 227 * 1024
MOST_STACK = 48  # bytes; Triton 3.6 spills nothing, 3.9 a dozen addresses outside the products


@pytest.mark.parametrize(
    ("arguments", "programs_per_sm"),
    [("bf16 128 128 2 3 4", 1)],
    ids=["prefill"],
)
def test_static_report(arguments, programs_per_sm):
    report = compiled(arguments)
    products, waits = map(int, re.search(r"products (\d+) waits (\d+)", report).groups())
    assert products > 3 * waits  # else ptxas gave up and waits after every product
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", report).groups())
    assert stack <= MOST_STACK
    threads = int(arguments.split()[2]) * 2
    assert registers * threads * programs_per_sm <= 65_536
    assert int(re.search(r"shared (\d+)", report)[1]) * programs_per_sm <= SHARED_PER_SM


def test_rescoring_compares_a_warp_at_a_time():
    report = compiled("rescore 128 16 4 64")
    assert "STACK:0" in report
    assert int(re.search(r"whole-warp maxima (\d+)", report)[1]) >= 2 * 4 + 2 * 4


def compiled(arguments):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_gluon.py")
    done = subprocess.run(
        [sys.executable, str(script), *arguments.split()],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout

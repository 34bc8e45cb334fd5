"""`reattention-eval status` on and off the node, and a storm of kills, under a real SLURM."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kill_storm import assert_nothing_is_left

from reattention_eval.cli.configs import config_path
from slurm.runs import (
    Surroundings,
    ask,
    assert_whole_and_equal,
    job_facts,
    processes,
    run_of,
    samples_on_disk,
    wait_for,
)
from slurm.test_slurm import OVER, finished, running_element, submit

pytestmark = pytest.mark.slurm
DEMO = config_path("eval_demo.py")
KILLS = 20
STATUS = [sys.executable, "-c", "from reattention_eval.cli import app; app()", "status"]


def status(surroundings: Surroundings, run: Path, *, elsewhere: bool = False) -> str:
    """What it says on the node; or on another machine, which has only SLURM to ask."""
    words = [*STATUS, str(run)]
    if elsewhere:  # the same machine under another name
        words = ["unshare", "--uts", "sh", "-c", 'hostname login && exec "$@"', "-", *words]
    return ask(surroundings, *words, COLUMNS="200")


def test_status_on_the_node_and_on_a_login_node(surroundings: Surroundings, tmp_path: Path) -> None:
    arrays, summary = submit(surroundings, tmp_path, DEMO)
    run = run_of(tmp_path)
    assert "4 tasks: 4 waiting; 0 samples done" in status(surroundings, run)
    wait_for("samples", lambda: samples_on_disk(tmp_path, "full") >= 2)
    element = wait_for("an element", lambda: running_element(surroundings, arrays[0]))
    here, there = (status(surroundings, run, elsewhere=e) for e in (False, True))
    node = os.uname().nodename
    assert f": SLURM job {element} on {node}\n" in here
    assert f": SLURM job {element} on {node}, RUNNING\n" in there
    for said in (here, there):
        assert "running" in said and "what runs now ends" in said
    for array in arrays:
        ask(surroundings, "scancel", array)
    finished(surroundings, summary)
    for elsewhere in (False, True):
        said = wait_for(
            "the end of all", lambda e=elsewhere: _without_running(surroundings, run, e), seconds=60
        )
        assert "stopped" in said and "0 running" not in said
        assert ("CANCELLED" in said) == elsewhere


def _without_running(surroundings: Surroundings, run: Path, elsewhere: bool) -> str:
    said = status(surroundings, run, elsewhere=elsewhere)
    return "" if " running" in said else said


def test_a_storm_of_kills_under_slurm(
    surroundings: Surroundings, local_run: Path, tmp_path: Path
) -> None:
    """Tasks, what waits for them, and jobs; submitted again for as long as anything is missing."""
    rng, kills, submissions, words = random.Random(0), 0, 0, []
    while True:
        arrays, summary = submit(surroundings, tmp_path, DEMO, *words)
        run = run_of(tmp_path)
        words, submissions = ["-r", run.name], submissions + 1
        while job_facts(surroundings, summary)[0]["JobState"] not in OVER:
            time.sleep(rng.random() * 6)
            if kills < KILLS:
                kills += _kill_one(surroundings, rng, arrays, tmp_path)
        if job_facts(surroundings, summary)[0]["JobState"] == "COMPLETED":
            break
        assert submissions < KILLS
    print(f"{kills} kills, {submissions} submissions")
    assert kills >= KILLS // 2
    assert_whole_and_equal(run, local_run)
    assert_nothing_is_left(run)
    assert not processes(tmp_path, "infer_task.py")
    assert "4 done" in status(surroundings, run)


def _kill_one(surroundings: Surroundings, rng: random.Random, arrays: list[str], cwd: Path) -> bool:
    """Whether there was anything to kill."""
    way = rng.choice(("task", "task", "starter", "requeue"))
    if way == "requeue":
        element = running_element(surroundings, rng.choice(arrays), None)
        asked = ["scontrol", "requeue", element]
        return (
            bool(element)
            and not subprocess.run(
                asked, env=surroundings.environment(), capture_output=True
            ).returncode
        )
    name = "infer_task.py" if way == "task" else "reattention_eval.harness.slurm_jobs"
    found = processes(cwd, name)
    if not found:
        return False
    os.kill(rng.choice(found), rng.choice((signal.SIGKILL, signal.SIGTERM)))
    return True

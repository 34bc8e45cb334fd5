"""Starting evaluations, breaking them in the middle, and reading what they left."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.cli.configs import config_path
from reattention_eval.report.needles import MEMORY, TIMES

TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class Surroundings:
    """Variables of the cluster and of the configuration."""

    variables: dict[str, str]

    @property
    def lengths(self) -> list[str]:
        return self.variables["REATTENTION_LENGTHS"].split(",")

    def environment(self, **more: str) -> dict[str, str]:
        path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        return {**os.environ, "PYTHONPATH": path, **self.variables, **more}


def opencompass(
    surroundings: Surroundings, cwd: Path, *words: str, config: Path | None = None, **variables: str
) -> subprocess.Popen[bytes]:
    """Start `opencompass CONFIG WORDS` in `cwd`; its output goes to cwd/log."""
    config = config or config_path("eval_demo.py")
    with (cwd / "log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "opencompass.cli.main", str(config), *words],
            cwd=cwd, env=surroundings.environment(**variables), stdout=log, stderr=log,
        )  # fmt: skip


def ask(surroundings: Surroundings, *words: str, cwd: Path | None = None, **variables: str) -> str:
    """What a command of SLURM, or of ours, prints."""
    done = subprocess.run(
        words, cwd=cwd, env=surroundings.environment(**variables), capture_output=True, text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 300) -> Any:
    """The first true answer of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := condition():
            return answer
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s in vain for {what}")


def run_of(cwd: Path) -> Path:
    """The only run under cwd/outputs."""
    (run,) = (path.parent for path in cwd.glob("outputs/*/*/configs"))
    return run


def samples_on_disk(cwd: Path, method: str, length: str = "*") -> int:
    """Lines of a method's record files, of every length or of one."""
    files = cwd.glob(f"outputs/*/*/records/*-{method}-*/*-{length}-*.jsonl")
    return sum(file.read_bytes().count(b"\n") for file in files)


def processes(cwd: Path, name: str) -> list[int]:
    """Processes of a script or module that were started in `cwd`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if any(word.endswith(name.encode()) for word in words[1:3]) and (
                (entry / "cwd").resolve() == cwd.resolve()
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def kill_a_task(cwd: Path) -> None:
    """kill -9, as the kernel does when memory is short."""
    os.kill(wait_for("a task", lambda: processes(cwd, "/infer_task.py"))[0], signal.SIGKILL)


def job_facts(surroundings: Surroundings, job: str) -> list[dict[str, str]]:
    """`scontrol show job`: one dictionary for each element of an array."""
    text = ask(surroundings, "scontrol", "show", "job", "-o", job)
    return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line]


def assert_whole_and_equal(run: Path, reference: Path) -> None:
    """Every sample finished exactly once, and predictions and tables are those of `reference`."""
    names = sorted(p.relative_to(reference) for p in reference.glob("predictions/*/*.json"))
    assert names, f"{reference} holds no predictions"
    assert sorted(p.relative_to(run) for p in run.glob("predictions/*/*.json")) == names
    for name in names:
        assert (run / name).read_bytes() == (reference / name).read_bytes()
        records = (run / "records" / name.relative_to("predictions")).with_suffix(".jsonl")
        lines = [json.loads(line) for line in records.read_text().splitlines()]
        expected = len(json.loads((reference / name).read_text()))
        assert sorted(line["index"] for line in lines) == list(range(expected)), name
        assert not [line for line in lines if line.get("error")]
    assert scores(run) == scores(reference)
    assert page(run) == page(reference)


def page(run: Path) -> list[str]:
    """The tables for readers, without those of what depends on the machine's speed."""
    parts = (run / "report" / "table.md").read_text().split("\n**")
    return [part for part in parts if not part.startswith((*TIMES, *MEMORY))]


def scores(run: Path) -> list[tuple[str, ...]]:
    """The table for machines, without what depends on the machine's speed."""
    with (run / "report" / "table.csv").open(newline="") as file:
        keys = ("model", "method", "budget", "dataset", "length", "n", "metric", "value")
        return [tuple(row[key] for key in keys) for row in csv.DictReader(file)]

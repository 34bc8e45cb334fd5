"""Runs that are killed again and again, until one comes through.

Processes are forked from one that has imported everything, so that a hundred kills take minutes.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from filelock import FileLock

Go = Callable[[Path], Any]
LONGEST = 900.0  # seconds that one process may take
WAYS = ("SIGKILL", "SIGTERM", "while writing")
# what a run may leave
KEPT = {".json", ".jsonl", ".lock", ".out", ".py", ".txt", ".csv", ".md", ".png", ".html"}
# what a run's speed does not change
COLUMNS = ("model", "method", "budget", "dataset", "length", "n", "metric", "value", "low", "high")
FIGURES = ("prediction", "value", "answer_nll", "n_tokens", "mean_view", "layer_steps",
           "layer_steps_selected", "must_select")  # fmt: skip


def from_scratch(go: Go, folder: Path) -> float:
    """Run `go(folder)` undisturbed, in a process of its own; its seconds."""
    begun = time.monotonic()
    process = _start(go, folder, None)
    process.join(LONGEST)
    assert process.exitcode == 0, (folder / "log").read_text()
    return time.monotonic() - begun


@dataclass
class Storm:
    """Kills at random moments of a run's life, seeded.

    Args:
        go: brings a run in a folder further, and returns when it is whole.
        seconds: that an undisturbed run takes.
        largest: bytes of the largest file that it writes.
    """

    go: Go
    seconds: float
    largest: int
    seed: int = 0
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)

    def until_whole(self, folder: Path, most: int) -> None:
        """Start the run in `folder`, one process or two at once, and kill it, at most so often."""
        for _ in range(most):
            two = self.rng.random() < 0.3
            if all(self._two(folder) if two else [self._one(folder)]):
                return
        from_scratch(self.go, folder)

    def _one(self, folder: Path) -> bool:
        """False if it was killed."""
        way = self.rng.choice(WAYS)
        limit = self.rng.randrange(self.largest + 1) if way == "while writing" else None
        process = _start(self.go, folder, limit)
        return self._end(folder, process, way, self.rng.random() * self.seconds)

    def _two(self, folder: Path) -> list[bool]:
        """One of two is killed, then the other."""
        first, second = (_start(self.go, folder, None) for _ in range(2))
        moments = [self.rng.random() * self.seconds for _ in range(2)]
        ways = [self.rng.choice(WAYS[:2]) for _ in range(2)]
        pairs = zip((first, second), ways, moments, strict=True)
        return [self._end(folder, *pair) for pair in pairs]

    def _end(self, folder: Path, process: BaseProcess, way: str, after: float) -> bool:
        if way == "while writing":
            process.join(LONGEST)
        else:
            process.join(after)
            if process.exitcode is None:
                os.kill(process.pid or 0, getattr(signal, way))
        process.join(LONGEST)
        assert process.exitcode is not None, "it hangs"
        if process.exitcode == 0:
            return True
        expected = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM}
        if process.exitcode != -expected.get(way, signal.SIGXFSZ):
            said = (folder / "log").read_text(errors="replace")
            raise AssertionError(f"status {process.exitcode} after {way}: {said[-4000:]}")
        self.kills[way] += 1
        return False


def _start(go: Go, folder: Path, limit: int | None) -> BaseProcess:
    # the process that forks has this one's variables, not its path
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kill_storm_imports"])
    process = context.Process(target=_run, args=(go, folder, limit))
    process.start()
    return process


def _run(go: Go, folder: Path, limit: int | None) -> None:
    """In a process of its own; with `limit`, the kernel ends it in the middle of the write that
    makes a file longer than that."""
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    appended = os.O_WRONLY | os.O_CREAT | os.O_APPEND  # two may run at once
    log = os.open("/dev/null" if limit is not None else "log", appended)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    go(folder)


def assert_nothing_is_left(work: Path) -> None:
    """No lock that somebody holds, no mark of a process, no half of a file, nothing nameless."""
    for path in work.rglob("*.lock"):
        with FileLock(path, timeout=0):
            pass
    files = [path for path in work.rglob("*") if path.is_file()]
    left = [path for path in files if path.suffix not in KEPT or path.match("*.running.json")]
    left += [path for path in files if "unfinished" in path.relative_to(work).parts]
    assert left == []


def assert_whole_and_equal(work: Path, reference: Path) -> None:
    """Every sample once, and predictions, results and tables those of `reference`."""
    for room in ("predictions", "results"):
        names = files(reference / room, "json")
        assert names
        assert files(work / room, "json") == names
        for name in names:
            assert (work / room / name).read_bytes() == (reference / room / name).read_bytes(), name
    for name in files(reference / "records", "jsonl"):
        own, theirs = (lines(folder / "records" / name) for folder in (work, reference))
        assert sorted(line["index"] for line in own) == sorted(line["index"] for line in theirs)
        assert len({line["index"] for line in own}) == len(own), "a sample ran twice"
        assert figures(own) == figures(theirs)
    assert table(work) == table(reference)


def figures(own: list[dict[str, Any]]) -> dict[int, list[Any]]:
    return {line["index"]: [line.get(name) for name in FIGURES] for line in own}


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.glob(f"*/*.{suffix}"))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def table(work: Path) -> list[tuple[str, ...]]:
    with (work / "report" / "table.csv").open(newline="") as file:
        return [tuple(row[key] for key in COLUMNS) for row in csv.DictReader(file)]

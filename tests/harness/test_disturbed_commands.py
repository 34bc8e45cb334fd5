"""The commands themselves, on a tiny model: killed with and without their tasks, and on disks that
take no more. What they leave in the end is what an undisturbed run leaves."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from kill_storm import assert_nothing_is_left, assert_whole_and_equal, lines
from small_disk import SmallDisk

from reattention_eval.cli.configs import config_path

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
KILLS = 20  # of whole commands, which import for ten seconds each; of tasks: test_kill_storms
OUTLIVES = 20.0  # seconds that a task may go on behind its command on a busy machine


@dataclass(frozen=True)
class Command:
    """How a run in a folder is begun and gone on with."""

    words: Callable[[Path], list[str]]
    variables: dict[str, str]

    def start(self, folder: Path, cwd: Path, **more: str) -> subprocess.Popen[bytes]:
        """Its output goes to cwd/log."""
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE",
            "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
            "CUDA_VISIBLE_DEVICES": "", **self.variables, **more,
        }  # fmt: skip
        cwd.mkdir(exist_ok=True)
        with (cwd / "log").open("wb") as log:
            return subprocess.Popen(
                self.words(folder), cwd=cwd, env=environment, stdout=log, stderr=log
            )

    def finish(self, folder: Path, cwd: Path) -> None:
        assert self.start(folder, cwd).wait(600) == 0, (cwd / "log").read_text()

    def refused(self, folder: Path, cwd: Path, reason: str) -> None:
        """It ends with a status and says why in one sentence."""
        assert self.start(folder, cwd).wait(600) > 0
        said = (cwd / "log").read_text(errors="replace")
        assert "Traceback" not in said, said
        sentences = re.findall(r"error: [^\n]*cannot be written[^\n]*", said)
        assert sentences, said
        cures = ("start this run again", "make its report there")
        assert all(reason in one and any(cure in one for cure in cures) for one in sentences)


@pytest.fixture(scope="module")
def opencompass(
    checkpoint: Path, haystack: Path, tmp_path_factory: pytest.TempPathFactory
) -> Command:
    variables = {
        "REATTENTION_RUN_MODEL": str(checkpoint), "REATTENTION_HAYSTACK": str(haystack),
        "REATTENTION_LENGTHS": "600,1200", "REATTENTION_DEPTHS": "20,80",
        "REATTENTION_REPEATS": "4", "REATTENTION_ONLY_METHODS": "full,reattention",
        "REATTENTION_CACHE": str(tmp_path_factory.mktemp("cache")),
    }  # fmt: skip
    words = [sys.executable, "-m", "opencompass.cli.main", str(config_path("eval_demo.py"))]
    return Command(lambda run: [*words, "-w", str(run.parent), "-r", run.name], variables)


@pytest.fixture(scope="module")
def alone(checkpoint: Path, haystack: Path, tmp_path_factory: pytest.TempPathFactory) -> Command:
    methods = tmp_path_factory.mktemp("methods") / "methods.py"
    methods.write_text("methods = [dict(type='full'), dict(type='streaming_llm')]\n")
    words = [
        sys.executable, "-m", "reattention_eval.harness.standalone", "--model", str(checkpoint),
        "--methods", str(methods), "--haystack", str(haystack), "--lengths", "300", "600",
        "--depths", "20", "80", "--repeats", "4", "--work-dir",
    ]  # fmt: skip
    return Command(lambda run: [*words, str(run)], {})


@pytest.fixture(scope="module")
def reference(
    opencompass: Command, alone: Command, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """What an undisturbed run leaves, made once of each kind."""
    folder, commands = tmp_path_factory.mktemp("references"), (opencompass, alone)

    def made(kind: str) -> Path:
        if not (folder / kind).exists():
            command = commands[kind == "alone"]
            command.finish(folder / kind, tmp_path_factory.mktemp("cwd"))
        return folder / kind

    return made


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk", "64m")
    assert small.mounted, "mounting a tmpfs needs root"
    try:
        yield small
    finally:
        small.close()


def processes_of(cwd: Path) -> list[int]:
    """Tasks that a command started in `cwd`."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{cwd}/tmp/".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def samples(run: Path) -> int:
    return sum(len(path.read_bytes().split(b"\n")) - 1 for path in run.glob("records/*/*.jsonl"))


def wait(condition: Callable[[], object], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_kills_of_a_command_and_of_its_tasks(
    opencompass: Command, reference: Callable[[str], Path], tmp_path: Path
) -> None:
    rng, kills, rounds = random.Random(0), 0, 0
    while kills < KILLS:
        run = tmp_path / f"run-{rounds}"
        for _ in range(6):
            places = [tmp_path / f"cwd-{i}" for i in range(1 + (rng.random() < 0.25))]
            commands = [opencompass.start(run, cwd) for cwd in places]
            before = samples(run)

            def under_way(commands=commands, places=places, run=run, least=before) -> bool:  # type: ignore[no-untyped-def]
                ended = all(one.poll() is not None for one in commands)
                return ended or (samples(run) > least and any(map(processes_of, places)))

            assert wait(under_way, 300)
            time.sleep(rng.random() * 1.5)
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            for command, cwd in zip(commands, places, strict=True):
                if command.poll() is None:
                    tasks = processes_of(cwd)
                    target = rng.choice(tasks) if tasks and rng.random() < 0.4 else command.pid
                    kills += 1
                    os.kill(target, number)
                    if target != command.pid:
                        command.send_signal(number)
                command.wait(60)
            assert wait(lambda: not any(map(processes_of, places)), OUTLIVES), "an orphan"  # noqa: B023
        opencompass.finish(run, tmp_path / "last")
        assert_nothing_is_left(run)
        assert_whole_and_equal(run, reference("opencompass"))
        logs = [path.read_bytes() for path in run.glob("logs/*/*/*.out")]
        assert logs and not any(b"\0" in log for log in logs), "two wrote one log"
        rounds += 1
    print(f"{kills} kills in {rounds} runs")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("kind", ["opencompass", "alone"])
def test_a_disk_that_fills_up(
    kind: str, share: float, opencompass: Command, alone: Command,
    reference: Callable[[str], Path], disk: SmallDisk, tmp_path: Path,
) -> None:  # fmt: skip
    command = {"opencompass": opencompass, "alone": alone}[kind]
    kept = [path for path in reference(kind).rglob("*") if path.is_file() or path.is_dir()]
    pages = sum((path.stat().st_size + 4095) // 4096 for path in kept if path.is_file())
    disk.change(f"size={int(pages * share) * 4}k")
    run = disk.folder / "run"
    command.refused(run, tmp_path / "cwd", "No space left on device")
    assert_no_sample_twice(run)
    disk.change("size=64m")
    command.finish(run, tmp_path / "cwd")
    assert_nothing_is_left(run)
    assert_whole_and_equal(run, reference(kind))


@pytest.mark.parametrize("kind", ["opencompass", "alone"])
def test_a_disk_that_is_read_only(
    kind: str, opencompass: Command, alone: Command, reference: Callable[[str], Path],
    disk: SmallDisk, tmp_path: Path,
) -> None:  # fmt: skip
    command = {"opencompass": opencompass, "alone": alone}[kind]
    run = disk.folder / "run"
    begun = command.start(run, tmp_path / "cwd", REATTENTION_MINUTES="0.001")
    assert begun.wait(600) == 1
    disk.change("ro")
    command.refused(run, tmp_path / "cwd", "Read-only file system")
    disk.change("rw")
    command.finish(run, tmp_path / "cwd")
    assert_nothing_is_left(run)
    assert_whole_and_equal(run, reference(kind))


def assert_no_sample_twice(run: Path) -> None:
    for path in run.glob("records/*/*.jsonl"):
        whole = path.read_bytes().rpartition(b"\n")[0]
        path.write_bytes(whole + b"\n" if whole else b"")
        indices = [line["index"] for line in lines(path)]
        assert len(set(indices)) == len(indices)

"""`reattention-eval demo`: fetch, run opencompass on the demo configuration, show what came out."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.cli.configs import config_path
from reattention_eval.cli.console import FAILED, err, out, show_report
from reattention_eval.cli.prepare import fetch_essays, fetch_model
from reattention_eval.errors import ConfigError
from reattention_eval.report import build_report
from reattention_eval.report.progress import progress_line
from reattention_eval.report.task_logs import said, said_errors

CONFIG = "eval_demo.py"
# the command's options as the variables of configurations; the others bear their own names
VARIABLES = {"MODEL": "RUN_MODEL", "METHODS": "ONLY_METHODS"}
POLL_SECONDS = 1.0
SAY_SECONDS = 60.0
GRACE_SECONDS = 30.0  # torchrun needs some to end its own children


def run_demo(choices: Mapping[str, str], work_dir: Path) -> int:
    """Exit status of opencompass, after everything was shown.

    Args:
        choices: MODEL, LENGTHS, DEPTHS, REPEATS, METHODS.
        work_dir: receives a folder named by the time.

    Raises:
        ConfigError: OpenCompass is not installed, or the model is no folder.
    """
    if find_spec("opencompass") is None:
        raise ConfigError(
            "the demo runs OpenCompass, which is not installed: "
            'pip install "reattention-eval[opencompass]"'
        )
    chosen = {f"REATTENTION_{VARIABLES.get(key, key)}": value for key, value in choices.items()}
    environment = {**os.environ, **chosen}
    for name, fetch in (("RUN_MODEL", fetch_model), ("HAYSTACK", fetch_essays)):
        variable = f"REATTENTION_{name}"
        if not environment.get(variable):
            fetch()
        elif name == "RUN_MODEL" and is_embedded(environment[variable]):
            fetch_model(environment[variable])
        elif (local := Path(environment[variable]).expanduser()).exists():
            # opencompass is started elsewhere
            environment[variable] = str(local.resolve())
    config = config_path(CONFIG)
    check(config, environment)
    work_dir.mkdir(parents=True, exist_ok=True)
    return _run(config, work_dir.resolve(), environment)


def check(config: Path, environment: Mapping[str, str]) -> None:
    """Raise ConfigError, before anything is started, where it is known that the run cannot work."""
    from reattention_eval.harness.compose.run_variables import variables
    from reattention_eval.harness.configuration import read_configuration
    from reattention_eval.harness.slurm_jobs import check_run

    with variables(**environment):
        check_run(read_configuration(config))


def command(config: Path, work_dir: Path) -> list[str]:
    """What is run: the console script's own module, with this interpreter."""
    return [sys.executable, "-m", "opencompass.cli.main", str(config), "-w", str(work_dir)]


def _run(config: Path, work_dir: Path, environment: Mapping[str, str]) -> int:
    before = _runs(work_dir)
    out.print(f"running: opencompass {config} -w {work_dir}", soft_wrap=True, markup=False)
    start = time.monotonic()
    # opencompass leaves a tmp/ where it is started
    with tempfile.TemporaryDirectory(prefix="reattention-demo-") as folder:
        log = Path(folder) / "opencompass.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command(config, work_dir),
                cwd=folder,
                env=dict(environment),
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                with _ended_by_signals():
                    status = _wait(process, work_dir, before)
            except BaseException:
                _stop(process)
                raise
        reasons = said(log)
        made = sorted(_runs(work_dir) - before)
        if not made:
            _complain(reasons or [_tail(log)])
            return status or FAILED
        run = made[-1]
        (run / "logs").mkdir(exist_ok=True)
        shutil.copy(log, run / "logs" / "opencompass.log")
    show_report(build_report(run))
    _complain(list(dict.fromkeys([*reasons, *said_errors(run)])))
    out.print(str(run / "logs"), soft_wrap=True, markup=False)
    out.print(f"{(time.monotonic() - start) / 60:.1f} minutes", markup=False)
    if status:
        err.print(f"opencompass ended with status {status}; its output: {run}/logs/opencompass.log")
    return status


def _wait(process: subprocess.Popen[bytes], work_dir: Path, before: set[Path]) -> int:
    """Wait for the process and say meanwhile how far it is; not on a terminal, with each dataset
    and once a minute."""
    console = Console(stderr=True)
    said, when = "", 0.0
    with console.status("starting OpenCompass (some ten seconds)") as status:
        while (code := process.poll()) is None:
            new = sorted(_runs(work_dir) - before)
            line = progress_line(new[-1]) if new else ""
            if line and console.is_terminal:
                status.update(line)
            elif line and (
                line.partition(":")[0] != said or time.monotonic() - when >= SAY_SECONDS
            ):
                said, when = line.partition(":")[0], time.monotonic()
                err.print(f"reading: {line}", markup=False, soft_wrap=True)
            time.sleep(POLL_SECONDS)
    return code


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """What ends this process ends it as an exception does, so that it can end its children."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    names = ("SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End opencompass and the tasks it started, which outlive it otherwise."""
    if not hasattr(os, "killpg"):
        process.terminate()
        process.wait()
        return
    try:
        _signal_all(process, signal.SIGTERM)
        last = time.monotonic() + GRACE_SECONDS
        while time.monotonic() < last and _signal_all(process, 0):
            process.poll()
            time.sleep(0.05)
    finally:  # a second Ctrl-C is in a hurry
        _signal_all(process, signal.SIGKILL)
        process.wait()


def _signal_all(process: subprocess.Popen[bytes], number: int) -> bool:
    """False where none of the processes is left."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        err.print(line, style="red", markup=False, soft_wrap=True)


def _runs(work_dir: Path) -> set[Path]:
    return {p for p in work_dir.glob("*") if (p / "configs").is_dir()}


def _tail(log: Path, lines: int = 30) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

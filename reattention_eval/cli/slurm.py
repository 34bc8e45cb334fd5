"""`reattention-eval slurm`: an eval configuration as SLURM batch jobs, or a list of them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

import reattention_eval
from reattention_eval.cli.console import err, out
from reattention_eval.errors import ConfigError
from reattention_eval.report.expected import note_expected

if TYPE_CHECKING:
    from reattention_eval.harness.slurm_jobs import Job


@dataclass(frozen=True)
class Wishes:
    """What the user asked of SLURM.

    Attributes:
        partition: SLURM's partition; None leaves it to the cluster.
        at_once: elements of one array that may run together; None for all.
        datasets_per_task: datasets of one array element, which loads the checkpoint once.
        options: further words for every sbatch.
    """

    partition: str | None = None
    at_once: int | None = None
    datasets_per_task: int = 1
    options: tuple[str, ...] = ()

    def common(self) -> list[str]:
        named = [f"--partition={self.partition}"] if self.partition else []
        return [*named, *self.options]


def submit(
    config: Path, work_dir: Path | None, run: str | None, wishes: Wishes, dry_run: bool
) -> None:
    """Submit one array a model with method, and the job that makes the tables behind them.

    Args:
        config: an eval configuration.
        work_dir: replaces the configuration's own.
        run: a run to go on with: its timestamp, or "latest".
        dry_run: print every job and its command, submit and write nothing.

    Raises:
        ConfigError: nothing to read or to run, a run that cannot work, no sbatch here, or sbatch
            refused a job.
    """
    if find_spec("opencompass") is None:
        raise ConfigError(
            'OpenCompass is not installed: pip install "reattention-eval[opencompass]"'
        )
    from reattention_eval.harness.compose.run_variables import DRY_RUN, variables

    # the job that scores runs on one node, whatever the variable says
    settings = {"REATTENTION_RUNNER": "local"}
    if dry_run:
        settings[DRY_RUN] = "1"  # jobs are listed without the data as well
    with variables(**settings):
        _submit(config, work_dir, run, wishes, dry_run)


def _submit(
    config: Path, work_dir: Path | None, run: str | None, wishes: Wishes, dry_run: bool
) -> None:
    from reattention_eval.harness.compose.begun_for import of_entries
    from reattention_eval.harness.slurm_jobs import check_run, freeze, jobs, read_run

    read = read_run(config, work_dir, run)
    arrays = jobs(read)
    folder = Path(read.work_dir)
    out.print(_table(arrays, wishes.datasets_per_task))
    if dry_run:
        for words in [
            *_array_commands(arrays, Path("CONFIG"), folder, wishes),
            _summary_command(Path("CONFIG"), folder, wishes, ["ID"]),
        ]:
            _say(shlex.join(words))
        _say(f"nothing was submitted; run directory: {folder}")
        return
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "sbatch is not on this machine; submit from a login node of the cluster, or see the "
            "jobs with --dry-run."
        )
    check_run(read)
    frozen = freeze(read)
    cells = [(job.model, dataset) for job in arrays for dataset in job.datasets]
    note_expected(folder, cells, *of_entries(read["models"], read["datasets"]))
    (folder / "logs" / "slurm").mkdir(parents=True, exist_ok=True)
    ids = [_sbatch(words) for words in _array_commands(arrays, frozen, folder, wishes)]
    last = _sbatch(_summary_command(frozen, folder, wishes, ids))
    _say(f"run directory: {folder}")
    _say(f"logs:          {folder / 'logs' / 'slurm'}")
    _say(f"tables:        {folder / 'report' / 'table.md'} (job {last}, after all others)")
    _say(f"how far it is: reattention-eval status {folder}")
    _say(f"watch:         squeue --jobs={','.join([*ids, last])}")
    _say(f"go on later:   reattention-eval slurm {config} --reuse {folder.name} ...")


def _table(arrays: Sequence[Job], size: int) -> Table:
    table = Table()
    for column in ("job", "array elements", "GPUs each", "datasets to do", "datasets done"):
        table.add_column(column, overflow="fold", justify="left" if column == "job" else "right")
    for job in arrays:
        left = [d for d, done in zip(job.datasets, job.done, strict=True) if not done]
        elements = compact(job.elements(size)) or "-"
        table.add_row(job.model, elements, str(job.gpus), str(len(left)), str(sum(job.done)))
    return table


def _array_commands(
    arrays: Sequence[Job], config: Path, folder: Path, wishes: Wishes
) -> list[list[str]]:
    size = wishes.datasets_per_task
    limit = f"%{wishes.at_once}" if wishes.at_once else ""
    return [
        [
            "sbatch", "--parsable", f"--job-name={job.model}",
            f"--array={compact(job.elements(size))}{limit}",
            f"--output={folder / 'logs' / 'slurm' / '%x-%A_%a.out'}",
            *([f"--gres=gpu:{job.gpus}"] if job.gpus else []),
            *wishes.common(),
            str(shipped("infer.sbatch")), sys.executable, str(config), job.model, str(size),
        ]
        for job in arrays
        if job.elements(size)
    ]  # fmt: skip


def _summary_command(config: Path, folder: Path, wishes: Wishes, ids: Sequence[str]) -> list[str]:
    return [
        "sbatch", "--parsable", "--job-name=summary",
        *([f"--dependency=afterany:{':'.join(ids)}"] if ids else []),
        f"--output={folder / 'logs' / 'slurm' / '%x-%j.out'}",
        *wishes.common(),
        str(shipped("summarize.sbatch")), sys.executable, str(config),
    ]  # fmt: skip


def _sbatch(words: Sequence[str]) -> str:
    """The id of the submitted job."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"sbatch refused a job ({done.stderr.strip()}): {shlex.join(words)}")
    if done.stderr.strip():
        err.print(done.stderr.strip(), markup=False, soft_wrap=True)
    return done.stdout.strip().split(";")[0]


def shipped(name: str) -> Path:
    """A batch script: inside an installed package, or in a checkout's scripts/slurm.

    Raises:
        ConfigError: neither place has it.
    """
    package = Path(reattention_eval.__file__).resolve().parent
    places = [package / "slurm" / name, package.parent / "scripts" / "slurm" / name]
    for place in places:
        if place.is_file():
            return place
    raise ConfigError(f"{name} is neither {places[0]} nor {places[1]}; reinstall the package.")


def compact(indices: Sequence[int]) -> str:
    """[0, 1, 2, 5] -> "0-2,5", as `sbatch --array` takes it; for ascending indices."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(f"{a}-{b}" if b > a else f"{a}" for a, b in runs)


def _say(line: str) -> None:
    out.print(line, soft_wrap=True, markup=False)

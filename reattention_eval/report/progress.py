"""How far a running evaluation is, seen from its files: also from another machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reattention_eval.errors import DataError
from reattention_eval.json_text import read_object
from reattention_eval.processes import lives
from reattention_eval.report.fields import wrong_manifest
from reattention_eval.report.pace import Pace
from reattention_eval.report.predictions import NO_RECORD, REMAKE, Predicted, predicted
from reattention_eval.report.records import read_records
from reattention_eval.report.run import cell_names, written_names
from reattention_eval.report.running_score import scorer_of
from reattention_eval.report.schema import migrated, refuse_newer
from reattention_eval.report.task_logs import why_none
from reattention_eval.report.told import REMAKE_ALL, named, untold

DONE, RUNNING, STOPPED, FAILED, WAITING = "done", "running", "stopped", "failed", "waiting"
# a process on a machine that cannot be asked has stopped when it wrote nothing for so long
SILENCE = 600.0  # seconds, or five of its samples
MARK = ".running.json"  # beside the records while a process writes them


@dataclass(frozen=True)
class TaskProgress:
    """One cell of a run: its state, how far it is, and where it runs, or why it did not begin."""

    model: str
    dataset: str
    state: str
    pace: Pace
    where: str = ""


def run_progress(work_dir: Path) -> list[TaskProgress]:
    """Every cell that the run was begun for, or of which any file exists; of one that a partitioner
    split each part that was begun.

    Raises:
        DataError: a file of a newer version, or a damaged list of cells.
    """
    jobs = _JobStates()
    return [
        _of_cell(work_dir, model, name, jobs)
        for model, dataset in cell_names(work_dir)
        for name in written_names(work_dir, model, dataset)
    ]


def is_running(work_dir: Path, model: str, dataset: str) -> bool:
    """Whether a process writes this cell's records, as far as is seen."""
    jobs, names = _JobStates(), written_names(work_dir, model, dataset)
    return any(_of_cell(work_dir, model, name, jobs).state == RUNNING for name in names)


def progress_line(work_dir: Path) -> str:
    """`MODEL on DATASET: 3 of 9 prompts, ...` of the dataset begun last; empty before the first."""
    manifests = list((work_dir / "records").glob("*/*.manifest.json"))
    try:
        newest = max(manifests, key=lambda path: path.stat().st_mtime)
        dataset = newest.name.removesuffix(".manifest.json")
        model = newest.parent.name
        pace = _pace(newest.with_name(f"{dataset}.jsonl"), newest, model, dataset)
    except (ValueError, OSError, DataError):
        return ""  # none, or one that cannot be read
    return f"{model} on {dataset}: {pace.words()}"


def _of_cell(work_dir: Path, model: str, dataset: str, jobs: _JobStates) -> TaskProgress:
    records = work_dir / "records" / model / f"{dataset}.jsonl"
    manifest = records.with_name(f"{dataset}.manifest.json")
    try:
        pace = _pace(records, manifest, model, dataset)
    except OSError:
        pace = Pace(None)
    begun = records.is_file() or manifest.is_file()
    answers = predicted(work_dir, model, dataset, pace.total)
    why = _unaccepted(answers, pace, begun or named(model) is not None)
    if answers.whole and not why and not pace.failed:
        return TaskProgress(model, dataset, DONE, pace)
    mark = _mark(records)
    if mark is None:
        why = why or ("" if begun else why_none(work_dir, model, dataset))
        state = FAILED if pace.failed or why else STOPPED if begun else WAITING
        return TaskProgress(model, dataset, state, pace, why)
    alive, where = _holder(mark, records, pace, jobs)
    state = RUNNING if alive else FAILED if pace.failed else STOPPED
    return TaskProgress(model, dataset, state, pace, where)


def _unaccepted(answers: Predicted, pace: Pace, ours: bool) -> str:
    """Why a report would not take predictions that are there; other models leave no records."""
    if answers.wrong:
        return f"its predictions file {answers.wrong}; {REMAKE}"
    if not ours or not answers.whole:
        return ""
    if (lost := answers.n - pace.done - pace.failed) > 0:
        return NO_RECORD.format(lost, answers.n)
    return f"no manifest is of these samples, {REMAKE_ALL}" if pace.total is None else ""


def _pace(records: Path, manifest: Path, model: str, dataset: str) -> Pace:
    """What is done is counted also where no manifest, or a damaged one, says of how many.

    Raises:
        DataError: a file of a newer version.
        OSError: one cannot be read.
    """
    told = _readable(manifest, model, dataset)
    about = told.get("dataset", {})
    gpu = str(told.get("model", {}).get("device")).startswith("cuda")
    pace = Pace(about.get("n"), scorer_of(about), gpu)
    found = read_records(records)
    pace.add(found[i] for i in sorted(found) if pace.total is None or i < pace.total)
    return pace


def _readable(manifest: Path, model: str, dataset: str) -> dict[str, Any]:
    """{} where there is none, or a damaged one: the report says what is wrong with it."""
    try:
        told = read_object(manifest) if manifest.is_file() else {}
    except ValueError:
        return {}
    refuse_newer(told, manifest)
    whole = {} if wrong_manifest(told) else migrated(told, manifest)
    return {} if untold(whole, model, dataset) else whole


def _mark(records: Path) -> dict[str, Any] | None:
    """Who writes these records, as `harness.running_mark` says; None: nobody."""
    try:
        return read_object(records.with_suffix(MARK))
    except (OSError, ValueError):
        return None


def _holder(
    mark: Mapping[str, Any], records: Path, pace: Pace, jobs: _JobStates
) -> tuple[bool, str]:
    """Whether the process that left the mark lives, and where it is or was."""
    host, pid, job = mark.get("host"), mark.get("pid"), mark.get("slurm_job")
    place = f"SLURM job {job} on {host}" if job else f"process {pid} on {host}"
    if host == socket.gethostname() and isinstance(pid, int):
        return lives(pid, str(mark.get("born") or "")), place
    if job and (state := jobs.state(str(job))) is not None:
        return state in ("RUNNING", "COMPLETING", "SUSPENDED"), f"{place}, {state or 'ended'}"
    try:
        silent = time.time() - max(records.stat().st_mtime, float(mark.get("since") or 0.0))
    except (OSError, TypeError, ValueError):
        silent = 0.0
    each = pace.seconds_each or 0.0
    if silent > max(SILENCE, 5 * each):
        return False, f"{place}, silent for {silent / 60:,.0f} minutes"
    return True, place


class _JobStates:
    """What SLURM says of jobs, each asked once."""

    def __init__(self) -> None:
        self._known: dict[str, str | None] = {}

    def state(self, job: str) -> str | None:
        """RUNNING and so on; empty for a job that SLURM has forgotten, None where nobody knows."""
        if job not in self._known:
            self._known[job] = _ask_squeue(job)
        return self._known[job]


def _ask_squeue(job: str) -> str | None:
    if shutil.which("squeue") is None:
        return None
    words = ["squeue", "--noheader", f"--jobs={job}", "--states=all", "--format=%T"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return None
    if asked.returncode and "Invalid job id" not in asked.stderr:
        return None
    return asked.stdout.strip().split("\n")[0]

"""Says, beside a dataset's records, which process writes them, for as long as it does."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reattention_eval.harness.run_folder import write_whole
from reattention_eval.processes import born
from reattention_eval.report.progress import MARK


@contextmanager
def running(records: Path) -> Iterator[None]:
    """The mark that `reattention-eval status` reads; of a process that was killed it stays until
    the next one takes over, and the process is then seen to be gone."""
    mark = records.with_suffix(MARK)
    write_whole(
        mark,
        {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": born(os.getpid()),
            "slurm_job": _slurm_job(),
            "since": round(time.time(), 1),
        },
    )
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that has become read-only: the process is seen to be gone
            mark.unlink()


def _slurm_job() -> str | None:
    """As squeue calls it: 123, or 123_4 for an element of an array."""
    array, element = (os.environ.get(f"SLURM_ARRAY_{n}_ID") for n in ("JOB", "TASK"))
    return f"{array}_{element}" if array and element else os.environ.get("SLURM_JOB_ID")

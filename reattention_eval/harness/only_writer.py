"""One process at a time writes a dataset's files."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from reattention_eval.errors import ConfigError
from reattention_eval.harness.run_folder import writing_to
from reattention_eval.harness.running_mark import running

# a process that is being ended may need this long to let go of its files
LOCK_SECONDS = 60


class Busy(ConfigError):
    """Another process writes the predictions of this dataset."""


@contextmanager
def only_writer(records: Path, patience: float, log: logging.Logger) -> Iterator[None]:
    """Holds a dataset's files (`held`), and says beside them which process runs it.

    Raises:
        Busy, RunFolderError: as `held`.
    """
    with held(records, patience, log), running(records):
        yield


@contextmanager
def held(records: Path, patience: float, log: logging.Logger) -> Iterator[None]:
    """Holds a dataset's files against other processes, on other machines as well.

    Raises:
        Busy: another process held it for longer than `patience` seconds.
        RunFolderError: nothing can be written there.
    """
    lock = FileLock(records.with_suffix(".lock"), timeout=patience)
    with writing_to(records):
        records.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except NotImplementedError:
            log.warning(f"{records.parent} knows no locks: start nothing twice here")
        except Timeout:
            raise Busy(
                f"another process is writing {records}; wait for it, or end it, and start this "
                "run again with -r."
            ) from None
    try:
        yield
    finally:
        lock.release()

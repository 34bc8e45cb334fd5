"""Writing into a run's folder: whole files, and one sentence for a disk that takes no more."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reattention_eval.errors import RunFolderError
from reattention_eval.whole_file import write_whole_text

# of a run: what OpenCompass's own inferencers and evaluators are still writing
UNFINISHED = "unfinished"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """What is written inside goes to `path`.

    Raises:
        RunFolderError: it cannot be.
    """
    try:
        yield
    except OSError as error:
        raise RunFolderError(
            f"{path} cannot be written ({error.strerror or error}); what was finished is kept. "
            "Check the folder's permissions and the room on its disk, and start this run again, "
            "`opencompass` with -r, to go on."
        ) from error


@contextmanager
def disk_of(path: Path) -> Iterator[None]:
    """The same where others write as well: only what a disk says that is full or read-only."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        with writing_to(path):
            raise


def write_whole(path: Path, data: Any) -> None:
    """Write JSON so that the file is either absent or complete.

    Raises:
        RunFolderError: it cannot be written.
    """
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole_text(path, json.dumps(data, indent=1, ensure_ascii=True))


def refusal(folder: Path) -> str | None:
    """Why nothing can be written to a run's folder, in one sentence; None if it can."""
    try:
        # it has no name, so that a kill leaves nothing
        with writing_to(folder), tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
    except RunFolderError as error:
        return str(error)
    return None

"""Of two `opencompass -r` in one folder, the tasks of each have logs of their own."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


class OwnLog:
    """Beside a task of OpenCompass, whose runner asks it where its log is and opens that file anew.

    MODEL/DATASET.out; while another process writes that, MODEL/DATASET.2.out and so on, which go
    again when the first is next begun. Another machine's processes count as well.
    """

    _log: tuple[str, Any] | None = None

    def get_log_path(self, file_extension: str = "json") -> str:
        """A file that nobody else writes for as long as this object is there."""
        if self._log is None:
            path = super().get_log_path(file_extension)  # type: ignore[misc]
            self._log = _own(Path(path))
        return self._log[0]


def _own(path: Path) -> tuple[str, Any]:
    """The first free one of a log's names, made free for a new file, and what holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for number in count(1):
            own = _numbered(path, number)
            if held := _hold(own):
                # a task that outlives its run for a moment may still write to the old file
                own.unlink(missing_ok=True)
                if number == 1:
                    _clear(path)
                return str(own), held
    except (OSError, NotImplementedError):  # no locks there, or nothing can be written at all
        pass
    return str(path), None


def _clear(path: Path) -> None:
    """Take away what others, who have ended, wrote beside `path`."""
    for number in count(2):
        other = _numbered(path, number)
        if not other.exists():
            return
        if held := _hold(other):
            other.unlink()
            held.release()


def _hold(log: Path) -> FileLock | None:
    lock = FileLock(log.with_name(f".{log.name}.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _numbered(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")

"""prepared.json beside the data: which bytes were prepared and from where; the user's own lock.

It makes a second `prepare` instant (size and time of change are compared, nothing is read) and
holds the digests that lock.json could not know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock

from reattention_eval.checkpoints.download import disk_errors
from reattention_eval.errors import ConfigError, DataError
from reattention_eval.json_text import read_object

FILE_NAME = "prepared.json"
DISK_CURE = "free some space, or choose a folder on another disk with --data-dir"


@dataclass(frozen=True)
class Entry:
    """One prepared file: digest, size, time of change (ns), samples, and where it came from."""

    sha256: str
    bytes: int
    mtime_ns: int
    samples: int | None
    source: str

    def fits(self, path: Path) -> bool:
        """Size and time of change are as recorded, so the bytes are taken to be too."""
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (self.bytes, self.mtime_ns)


def _check(key: str, entry: Entry) -> None:
    texts = isinstance(entry.sha256, str) and isinstance(entry.source, str)
    numbers = isinstance(entry.bytes, int) and isinstance(entry.mtime_ns, int)
    if not (texts and numbers and isinstance(entry.samples, (int, type(None)))):
        raise ValueError(f"the entry of {key} has fields of other kinds")


class Record:
    """The entries of one data folder, by `benchmark/file`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.entries = self._read()

    def _read(self) -> dict[str, Entry]:
        try:
            raw = read_object(self.path)
            entries = {key: Entry(**entry) for key, entry in raw["files"].items()}
            for key, entry in entries.items():
                _check(key, entry)
            return entries
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise DataError(
                f"{self.path} cannot be read ({type(error).__name__}: {error}); delete it and "
                "prepare again: files that are right are kept."
            ) from error

    def put(self, key: str, path: Path, sha256: str, samples: int | None, source: str) -> None:
        """Record what lies at `path` now, and save."""
        stat = path.stat()
        self.entries[key] = Entry(sha256, stat.st_size, stat.st_mtime_ns, samples, source)
        files = {name: asdict(self.entries[name]) for name in sorted(self.entries)}
        text = json.dumps({"files": files}, indent=2) + "\n"
        temporary = self.path.with_name(f".{FILE_NAME}.{os.getpid()}")
        try:
            with disk_errors(self.path, None, DISK_CURE):
                temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for one preparing process at a time.

    Raises:
        ConfigError: it cannot be made or written to, or a file in it cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".prepare.lock"):
            yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.strerror else str(error)
        raise ConfigError(
            f"the data folder {folder} cannot be used ({reason}); "
            "choose another with --data-dir or REATTENTION_DATA."
        ) from error

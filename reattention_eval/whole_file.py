"""A file that is whole or not there, also where two processes write it at once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """What is written inside becomes `path` at the end; after an error `path` is what it was.

    It is written beside its place, under one name: what a kill leaves there, the next one writes
    over. A second process waits for the first, where the file system knows locks.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    lock = _only_one(part)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    except BaseException:
        with suppress(OSError):  # it takes room that others need
            part.unlink()
        raise
    finally:
        os.close(lock)


def write_whole_text(path: Path, text: str) -> None:
    """`text` in UTF-8, by `whole_file`; what UTF-8 cannot hold stands there as an escape."""
    with whole_file(path) as file:
        file.write(text.encode("utf-8", errors="backslashreplace"))


def _only_one(part: Path) -> int:
    """`part`, opened and locked, while it still stands at its place: whoever held it may have put
    it elsewhere. Nothing in it is changed."""
    while True:
        lock = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(lock), os.stat(part)):
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)

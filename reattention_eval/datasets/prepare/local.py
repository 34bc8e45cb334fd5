"""Files that are on this machine already: in a folder, or in a zip."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from reattention_eval.datasets.prepare.lock import Archive, SourceFile
from reattention_eval.errors import ConfigError, DataError

# what zipfile raises; RuntimeError for a password, NotImplementedError for an unknown packing
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, KeyError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


class Local:
    """A folder (searched with all below it) or a zip that holds benchmark files.

    Raises:
        ConfigError: it is neither.
        DataError: a damaged zip.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self._zip: Path | None = None
        if place.is_dir():
            names = [p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()]
        elif zipfile.is_zipfile(place):
            self._zip = place
            with _opened(place) as archive:
                names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        else:
            found = "is not there" if not place.exists() else "is neither a folder nor a zip"
            raise ConfigError(f"--from {place}: it {found}; give a folder or a zip of the files.")
        # shallow paths first: a file at the top is meant rather than one of a nested copy
        self._names = sorted(names, key=lambda name: (name.count("/"), name))

    def find(self, file: SourceFile) -> str | None:
        """The name of the file in this place, None where it has none: by its path at the source,
        then in a folder of the benchmark's name, then anywhere."""
        same = [n for n in self._names if PurePosixPath(n).name == file.name]
        for name in same:
            if name == file.origin or name.endswith("/" + file.origin):
                return name
        for name in same:
            if file.benchmark in PurePosixPath(name).parts:
                return name
        return same[0] if same else None

    def find_archive(self, archive: Archive) -> Path | None:
        """A file of the archive's name and size: this zip itself, or one in this folder."""
        name = PurePosixPath(archive.path).name
        for path in (self._zip,) if self._zip else (self.place / n for n in self._names):
            if path.stat().st_size == archive.bytes and (self._zip or path.name == name):
                return path
        return None

    @contextmanager
    def open(self, name: str, most_bytes: int) -> Iterator[IO[bytes]]:
        """One of its files, to read.

        Raises:
            DataError: it is larger than `most_bytes`, or in a damaged zip.
        """
        if self._zip is None:
            check_size(name, (self.place / name).stat().st_size, most_bytes)
            with (self.place / name).open("rb") as file:
                yield file
        else:
            with unpacked(self._zip, name, most_bytes) as file:
                yield file


def check_size(name: str, size: int, most_bytes: int) -> None:
    """Raises DataError if a file of `size` bytes cannot be the one that is wanted."""
    if size > most_bytes:
        raise DataError(
            f"{name} would take {size:,} bytes, and the file that is wanted has at most "
            f"{most_bytes:,}"
        )


@contextmanager
def unpacked(archive: Path, member: str, most_bytes: int) -> Iterator[IO[bytes]]:
    """One member of a zip, to read; no more of it comes than the zip's directory says.

    Raises:
        DataError: it unpacks to more than `most_bytes`; the zip is damaged, locked with a
            password, packed in a way that is not known here, or has no such member.
    """
    with _opened(archive) as opened:
        check_size(member, opened.getinfo(member).file_size, most_bytes)
        with opened.open(member) as file:
            yield file


@contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(archive) as opened:
            yield opened
    except _DAMAGED as error:
        raise DataError(f"{archive} is damaged or cannot be unpacked ({error}).") from error

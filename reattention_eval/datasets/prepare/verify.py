"""Is a file what it should be: digests, samples, and what to say where it is not."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from reattention_eval.checkpoints.download import file_sha256
from reattention_eval.datasets.prepare.lock import SourceFile
from reattention_eval.datasets.prepare.record import Entry
from reattention_eval.errors import DataError
from reattention_eval.json_text import parse

READY, MISSING, WRONG = "ready", "missing", "wrong"


@dataclass(frozen=True)
class Finding:
    """One file's state: READY, MISSING or WRONG, and why; `sha256` and `samples` where read."""

    file: SourceFile
    path: Path
    state: str
    detail: str = ""
    sha256: str | None = None
    samples: int | None = None


def examine(
    file: SourceFile, path: Path, entry: Entry | None, *, thorough: bool = False
) -> Finding:
    """The state of `path`; without `thorough` a file that is as recorded is not read again."""
    if not path.is_file():
        return Finding(file, path, MISSING, "not there")
    if entry is not None:
        if file.sha256 not in (None, entry.sha256):
            return Finding(file, path, WRONG, _unequal(entry.sha256, file.sha256 or ""))
        if not thorough and entry.fits(path):
            return Finding(file, path, READY, entry.source, entry.sha256, entry.samples)
    sha256 = file_sha256(path)
    if entry is not None:
        if sha256 == entry.sha256:
            return Finding(file, path, READY, entry.source, sha256, entry.samples)
        return Finding(file, path, WRONG, f"changed since it was prepared ({sha256[:12]}...)")
    try:
        return accept(file, path)
    except DataError as error:
        return Finding(file, path, WRONG, str(error))


def accept(file: SourceFile, path: Path, *, proven: bool = False) -> Finding:
    """A fetched or given file as a READY finding, its detail saying what is not sure of it.

    With `proven` the source's own digest was right: then a number of samples that differs from
    the published one is told, not refused.

    Raises:
        DataError: wrong checksum, not JSON lines, or another number of samples.
    """
    sha256 = file_sha256(path)
    if file.sha256 is not None and sha256 != file.sha256:
        raise DataError(_unequal(sha256, file.sha256))
    samples = count_samples(path) if file.name.endswith(".jsonl") else None
    sure = sha256 in (file.sha256, *file.known)
    detail = ""
    if file.samples is not None and samples != file.samples:
        detail = f"{samples:,} samples, but {file.samples:,} are published"
        if not (sure or proven):
            raise DataError(detail)
    elif not (sure or proven):
        detail = "checksum not known here, " + (
            "number of samples neither" if file.samples is None else "number of samples right"
        )
    return Finding(file, path, READY, detail, sha256, samples)


def count_samples(path: Path) -> int:
    """How many JSON objects, one a line, the file holds; blank lines do not count.

    Raises:
        DataError: a line is something else.
    """
    samples = 0
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                if not isinstance(parse(line), dict):
                    raise ValueError("not an object")
            except ValueError as error:
                raise DataError(f"line {number:,} is not a JSON object ({error})") from error
            samples += 1
    return samples


def matches_etag(path: Path, etag: str | None) -> bool | None:
    """Whether the bytes are those the hub names by `etag`; None if it is of no known kind.

    The hub's ETag is the sha256 of a large (LFS) file and git's blob id of any other.
    """
    if etag and re.fullmatch("[0-9a-f]{64}", etag):
        return file_sha256(path) == etag
    if etag and re.fullmatch("[0-9a-f]{40}", etag):
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
        return digest.hexdigest() == etag
    return None


def _unequal(found: str, expected: str) -> str:
    return f"wrong checksum (sha256 {found[:12]}..., expected {expected[:12]}...)"

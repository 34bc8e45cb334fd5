"""What is larger than the file that is wanted is refused before it is unpacked or downloaded."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest
from tiny_hub import EXAMS, REVIEWS, Place

from reattention_eval.datasets.prepare import FETCHED, MISSING, Local, load_sources
from reattention_eval.errors import DataError

BIG = 1500 << 20


def bomb(path: Path, name: str, size: int) -> Path:
    """A zip of a few megabytes that unpacks to `size` bytes of blanks."""
    block = b" " * (1 << 20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        for _ in range(size >> 20):
            file.write(block)
    return path


def test_a_zip_bomb_is_not_unpacked(place: Place, tmp_path: Path) -> None:
    local = bomb(tmp_path / "copy.zip", "coursera.jsonl", BIG)
    with zipfile.ZipFile(local, "a") as archive:
        archive.writestr("review_summ.jsonl", REVIEWS)
    found = {f.file.name: f for f in place.prepare("leval", local=local)}
    assert found["coursera.jsonl"].state == MISSING
    assert "would take 1,572,864,000 bytes" in found["coursera.jsonl"].detail
    assert found["review_summ.jsonl"].state == FETCHED
    assert list(place.files()) == ["leval/review_summ.jsonl"]


def test_a_directory_that_lies_gives_no_more_than_it_says(place: Place, tmp_path: Path) -> None:
    """The directory says 100 bytes, and 4 MiB are packed."""
    local = bomb(tmp_path / "copy.zip", "coursera.jsonl", 4 << 20)
    data = bytearray(local.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    assert struct.unpack_from("<I", data, at + 24) == (4 << 20,)
    struct.pack_into("<I", data, at + 24, 100)
    local.write_bytes(data)
    found = {f.file.name: f for f in place.prepare("leval", local=local)}["coursera.jsonl"]
    assert found.state == MISSING and found.detail
    assert place.files() == {}


def test_a_large_file_is_not_copied_either(place: Place, tmp_path: Path) -> None:
    with (tmp_path / "coursera.jsonl").open("wb") as file:
        file.truncate(BIG)
    found = {f.file.name: f for f in place.prepare("leval", local=tmp_path)}["coursera.jsonl"]
    assert "would take 1,572,864,000 bytes" in found.detail and place.files() == {}


def test_a_mirror_with_a_larger_file_is_not_read(place: Place) -> None:
    place.hub.files[f"{EXAMS}/LEval/Exam/coursera.jsonl"] = b" " * 500_001
    found = {f.file.name: f for f in place.prepare("leval")}["coursera.jsonl"]
    assert "with 500,001 bytes" in found.detail and "HF_ENDPOINT" in found.detail


@pytest.mark.parametrize("damage", ["cut", "password", "packing", "stream"])
def test_a_zip_that_cannot_be_unpacked_is_named(place: Place, tmp_path: Path, damage: str) -> None:
    local = bomb(tmp_path / "copy.zip", "coursera.jsonl", 1 << 20)
    data = bytearray(local.read_bytes())
    first, at = data.index(b"PK\x03\x04"), data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 1000)  # small enough to be tried
    if damage == "cut":
        data[at : at + 4] = b"XXXX"
    elif damage == "password":
        data[first + 6] |= 1
        data[at + 8] |= 1
    elif damage == "packing":
        struct.pack_into("<H", data, at + 10, 97)
        struct.pack_into("<H", data, first + 8, 97)
    else:
        start = first + 30 + sum(struct.unpack_from("<HH", data, first + 26))
        data[start : start + 40] = b"\xff" * 40
    local.write_bytes(data)
    if damage == "cut":
        with pytest.raises(DataError, match="damaged or cannot be unpacked"):
            Local(local)
        return
    found = place.prepare("leval", local=local)
    assert str(local) in {f.file.name: f for f in found}["coursera.jsonl"].detail


def test_every_file_of_the_lock_has_a_ceiling() -> None:
    for benchmark in load_sources().values():
        for file in benchmark.files:
            assert (1 << 20) < file.most_bytes <= (4 << 30)

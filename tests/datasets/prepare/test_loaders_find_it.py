"""What `prepare` leaves is what the loaders read: the same folders, the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_server import FakeHub, serve
from tiny_benchmarks import load_rows, write_benchmarks
from tiny_hub import sha256, zipped
from tiny_raw_files import write_longbench_v2, write_mrcr

from reattention_eval.benchmarks import find_benchmark, list_benchmarks, mrcr
from reattention_eval.datasets.data_dir import data_dir
from reattention_eval.datasets.haystack import check_haystack
from reattention_eval.datasets.prepare import FETCHED, load_sources, prepare
from reattention_eval.datasets.prepare.lock import LOCK_FILE
from reattention_eval.datasets.prepare.run import file_path
from reattention_eval.datasets.sources import ruler_file
from reattention_eval.errors import DataError

RAW = ("longbench", "leval", "infinitebench", "longbench_v2", "mrcr")


def test_every_task_has_its_file_in_the_lock() -> None:
    for name in RAW:
        benchmark = find_benchmark(name)
        files = {f.name for f in load_sources()[name].files}
        assert files == {file for task in benchmark.tasks for file in benchmark.files(task)}
    assert set(load_sources()) == set(list_benchmarks())


def test_texts_lie_where_needle_and_ruler_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REATTENTION_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path / "data"))
    sources = load_sources()
    with pytest.raises(DataError, match="reattention-eval prepare needle"):
        check_haystack("long", 4_000_000)
    for file in sources["needle"].files:
        path = file_path(file, data_dir())
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    check_haystack("long", 4_000_000)
    for file in sources["ruler"].files:
        assert file.benchmark == "needle" or file_path(file, data_dir()) == ruler_file(file.name)


def test_every_task_loads_what_was_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = write_benchmarks(tmp_path / "origin")
    write_longbench_v2(origin)
    write_mrcr(origin)
    lock = json.loads(LOCK_FILE.read_text())
    served: dict[str, bytes] = {}
    for name in RAW:
        entry, repo = lock[name], lock[name]["hub"]["repo"]
        contents = {
            file["origin"]: (origin / name / key).read_bytes()
            for key, file in entry["files"].items()
        }
        for file in entry["files"].values():
            file.update(samples=None, sha256=None, known=[])
        if "archive" in entry:
            archive = zipped(contents)
            entry["archive"].update(bytes=len(archive), sha256=sha256(archive))
            contents = {entry["archive"]["path"]: archive}
        served |= {f"{repo}/{path}": content for path, content in contents.items()}
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    monkeypatch.setenv("REATTENTION_DATA", str(tmp_path / "data"))
    sources = load_sources(tmp_path / "lock.json")
    with serve(FakeHub(served)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = prepare([sources[name] for name in RAW], data_dir(), say=lambda line: None)
        findings = [finding for _, found in done for finding in found]
    assert {f.state for f in findings} == {FETCHED}
    monkeypatch.setattr(mrcr, "_count", lambda: lambda text: len(text.split()))
    recipes = {"mrcr": {"length": 8192, "chat_template": False}}
    for name in RAW:
        for task in find_benchmark(name).tasks:
            assert load_rows(name, task, **recipes.get(name, {})), (name, task)

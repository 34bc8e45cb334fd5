"""lock.json against what the papers, the READMEs and the wheels say."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reattention_eval.datasets.prepare import load_sources, select
from reattention_eval.datasets.prepare.lock import LOCK_FILE
from reattention_eval.errors import ConfigError

SOURCES = load_sources()


def test_every_task_of_the_benchmarks_is_there() -> None:
    counts = {name: len(b.files) for name, b in SOURCES.items()}
    assert counts == {
        "longbench": 21, "longbench_v2": 1, "leval": 20, "infinitebench": 12, "mrcr": 6,
        "needle": 3, "ruler": 3, "perplexity": 3,
    }  # fmt: skip


def test_samples_add_up_to_the_published_totals() -> None:
    """LongBench: 4,750 test samples (README); InfiniteBench: 3,946 (arXiv 2402.13718)."""
    for name, total in (("longbench", 4750), ("infinitebench", 3946)):
        assert sum(f.samples or 0 for f in SOURCES[name].files) == total


def test_digests_and_revisions_have_their_form() -> None:
    for benchmark in SOURCES.values():
        assert len({f.name for f in benchmark.files}) == len(benchmark.files)
        for file in benchmark.files:
            for digest in (*file.known, file.sha256 or "0" * 64):
                assert re.fullmatch("[0-9a-f]{64}", digest), file.key
        if benchmark.hub and benchmark.hub.revision != "main":
            assert re.fullmatch("[0-9a-f]{40}", benchmark.hub.revision)


def test_what_could_not_be_learned_says_why() -> None:
    for entry in json.loads(LOCK_FILE.read_text()).values():
        if any(file["sha256"] is None for file in entry["files"].values()):
            assert "null" in entry["sources"]["sha256"]
        if any(file["samples"] is None for file in entry["files"].values()):
            assert "null" in entry["sources"]["samples"]


def test_names_of_benchmarks() -> None:
    assert [b.name for b in select("all", SOURCES)] == list(SOURCES)
    assert [b.name for b in select("leval", SOURCES)] == ["leval"]
    with pytest.raises(ConfigError, match="there are: longbench, longbench_v2, leval"):
        select("longbench2", SOURCES)


def test_the_lock_is_in_the_package() -> None:
    assert LOCK_FILE.parent == Path(__file__).parents[3].joinpath(
        "reattention_eval", "datasets", "prepare"
    )

"""The bench's records: values follow from raw numbers, sources are traceable, no GPU is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from reattention_kernels.bench import __main__ as bench
from reattention_kernels.bench import record
from reattention_kernels.bench.rules import (
    KERNEL_BARS,
    LAYERS,
    PROMPT_BARS,
    RULES,
    value_from,
)


def git(folder, *words):
    done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def entry():
    rate = {"ms": 2.0, "work": 6.0, "ceiling_ms": 1.0, "ceiling_work": 4.0}
    slower = {**rate, "ms": 3.0}
    about = {"device": "a card", "commit": "0" * 40, "source": "1" * 40, "unit": "share"}
    return {"id": "K1", "value": 0.5, "raw": {"random": rate, "ar": slower}, **about}


def test_the_value_is_the_worse_of_both_kinds(entry):
    assert value_from(entry) == pytest.approx(0.5)
    ratio = {"random": {"ms": 2.0, "reference_ms": 6.0}, "ar": {"ms": 2.0, "reference_ms": 5.0}}
    assert value_from({"id": "K3", "raw": ratio}) == pytest.approx(2.5)


def test_k7_is_the_worst_of_a_real_models_layers():
    raw = {
        kind: {"ms": 1.0, "reference_ms": ms} for kind, ms in zip(LAYERS, (5, 3, 4), strict=True)
    }
    assert value_from({"id": "K7", "raw": raw}) == pytest.approx(3.0)


def test_every_bar_has_its_own_id():
    assert len(RULES) == len(KERNEL_BARS) + len(PROMPT_BARS)


def test_times_and_sizes_are_at_most():
    cold = {"empty": {"first_seconds": 9.0, "second_seconds": 4.0}}
    assert value_from({"id": "E11", "raw": cold}) == pytest.approx(5.0)
    assert RULES["E11"].met(5.0)
    assert not RULES["E11"].met(5.1)
    assert value_from({"id": "E12", "raw": {"prompt": {"bytes": 2**31}}}) == pytest.approx(2.0)
    assert RULES["E1"].met(1.3)
    assert not RULES["E1"].met(1.2)


def test_more_than_the_card_can_do_is_an_error(tmp_path, entry, capsys):
    """What a card with a neighbour printed: 2.05 of the copy's bandwidth."""
    fast = {"ms": 1.0, "work": 8.2, "ceiling_ms": 1.0, "ceiling_work": 4.0}
    raw = {"random": fast, "ar": fast}
    path = tmp_path / "bars.json"
    record.save(path, [{**entry, "id": "K8", "value": 2.05, "raw": raw}])
    assert bench.main(["--check", "--out", str(path)]) == 1
    assert "IMPOSSIBLE" in capsys.readouterr().out
    assert not RULES["K8"].impossible(1.03)  # reading alone is faster than a copy
    assert RULES["K1"].impossible(1.01)
    assert not RULES["K9"].impossible(5.0)


def test_check_recomputes(tmp_path, entry, capsys):
    path = tmp_path / "bars.json"
    record.save(path, [entry])
    assert bench.main(["--check", "--out", str(path)]) == 0
    path.write_text(json.dumps([{**entry, "value": 0.9}]))
    assert bench.main(["--check", "--out", str(path)]) == 1
    assert "VALUE DIFFERS" in capsys.readouterr().out


def test_a_rerun_replaces_its_own_entry_only(tmp_path, entry):
    path = tmp_path / "bars.json"
    record.save(path, [entry, {**entry, "id": "K2"}, {**entry, "device": "another card"}])
    record.save(path, [{**entry, "value": 0.6}])
    held = record.load(path)
    assert len(held) == 3
    assert [x["value"] for x in held if x["device"] == "a card" and x["id"] == "K1"] == [0.6]


def test_bars_of_prompts_trace_to_both_packages():
    commit = git(record.REPO, "rev-parse", "HEAD")
    folders = {"source": "kernels/reattention_kernels", "package": "reattention_eval"}
    hashes = {k: git(record.REPO, "rev-parse", f"HEAD:{v}") for k, v in folders.items()}
    assert record.verify_source({"commit": commit, **hashes}) is True
    assert record.verify_source({"commit": commit, **hashes, "package": "0" * 40}) is False
    assert record.verify_source({"commit": "0" * 40, **hashes}) is None


def test_tree_hash_is_gits(tmp_path):
    folder = tmp_path / "package"
    (folder / "a").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"left out")
    (folder / "a" / "one.py").write_text("1\n")
    (folder / "a.py").write_text("two\n")  # sorts before the folder a, which Git takes for "a/"
    (folder / "run").write_text("#!/bin/sh\n")
    (folder / "run").chmod(0o755)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "package/a", "package/a.py", "package/run")
    identity = ["-c", "user.name=x", "-c", "user.email=x@x"]
    git(tmp_path, *identity, "commit", "-q", "-m", "x")
    assert record.tree_hash(folder) == git(tmp_path, "rev-parse", "HEAD:package")
    (folder / "a.py").write_text("three\n")
    assert record.tree_hash(folder) != git(tmp_path, "rev-parse", "HEAD:package")


def test_without_a_gpu_it_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-m", "reattention_kernels.bench"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "CUDA device" in done.stderr


def test_recorded_values_follow_from_their_raw_numbers():
    path = record.REPO / "results" / "gpu" / "bars.json"
    assert bench.main(["--check", "--out", str(path)]) == 0


def test_other_forms_are_said_as_multiples_of_our_step():
    from reattention_kernels.bench.others import said

    times = {"step": 0.5, "SDPA flash": 1.5, "matmul": 2.0}
    assert said(times, "SDPA flash") == "SDPA flash 1.500 ms (3.00x)"
    assert said(times, "matmul") == "matmul 2.000 ms"


def test_what_runs_is_what_the_commit_has(tmp_path, monkeypatch):
    """The commit that is stated counts, also where the history here is another one's."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "one.py").write_text("1\n")
    monkeypatch.setattr(record, "REPO", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(ValueError, match="no Git history"):
        record.source(None, folder)
    assert record.source("cafe", folder) == ("cafe", record.tree_hash(folder))

    git(tmp_path, "init", "--quiet")
    commits = []
    for content in ("1\n", "2\n"):
        (folder / "one.py").write_text(content)
        git(tmp_path, "add", "--all")
        who = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        git(tmp_path, *who, "commit", "--quiet", "--message", content)
        commits.append(git(tmp_path, "rev-parse", "HEAD"))
    tree = git(tmp_path, "rev-parse", "HEAD:kernels")
    for stated in (None, "HEAD", commits[1][:9]):
        assert record.source(stated, folder) == (commits[1], tree)
    with pytest.raises(ValueError, match=f"differs from {commits[0]}"):
        record.source(commits[0], folder)
    (folder / "one.py").write_text("3\n")
    with pytest.raises(ValueError, match="differs from the last commit"):
        record.source(None, folder)
    assert record.source("cafe", folder) == ("cafe", record.tree_hash(folder))

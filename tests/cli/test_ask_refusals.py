"""`reattention-eval ask`: what it refuses in one sentence, and what is read all the same."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from ask_words import COMMAND, QUESTIONS, SETTINGS, TEXT, expected, run, words
from typer.testing import CliRunner

from reattention_eval import ReAttention
from reattention_eval.cli import app, ask_room, text_file
from reattention_eval.cli.console import readable_errors
from reattention_eval.errors import DataError


@pytest.mark.parametrize(
    ("data", "more", "says"),
    [
        (b"", [], "is empty"),
        (b" \n\t ", [], "is empty"),
        (b"\x7fELF\x02\0\0\0", [], "binary file"),
        ("caf\u00e9".encode("latin-1"), [], "no text in utf-8 at byte 3"),
        (b"abc", ["--encoding", "klingon"], "no encoding 'klingon'"),
        (b"abc", ["--method", "native_full"], "such as full or reattention"),
        (b"abc", ["--method", "reattention:k"], "name=value"),
        (b"abc", ["--load", "/nowhere"], "no saved session"),
        (b"abc", ["--save", "/etc"], "holds other files"),
        (
            b"abc",
            ["--save", "/etc/passwd/kept"],
            "/etc/passwd is a file, so /etc/passwd/kept cannot",
        ),
        (b"abc", ["--device", "abacus"], "no device 'abacus'"),
        (b"abc", ["--device", "meta"], "no device 'meta' to compute on"),
        (b"abc", ["--device", "cpu:7"], "no device 'cpu:7' to compute on"),
        (
            b"a \\ud83d",
            ["--encoding", "unicode_escape"],
            "half a character (U+D83D at character 2)",
        ),
        (b"abc", ["--method", ""], "unknown method ''"),
        (b"abc", ["--method", "full:chunk_size=5,chunk_size=6"], "chunk_size is given twice"),
        (None, [], "there is no file"),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
def test_refusals(
    tmp_path: Path, data: bytes | None, more: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reattention_eval.cli.ask.load_model", None)  # nothing is loaded for it
    path = tmp_path / "book.txt"
    if data is not None:
        path.write_bytes(data)
    done = run(str(path), "Why?", *more)
    assert done.exit_code == 2, done.output
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_too_large(
    model: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reattention_eval.cli.ask.load_model", None)
    given = words(model, book, "Why?")
    with monkeypatch.context() as patched:
        patched.setattr(text_file, "main_memory", lambda: 1000)
        assert "give a part of it" in run(*given).stderr
    with monkeypatch.context() as patched:
        patched.setattr(ask_room, "main_memory", lambda: 1 << 20)
        said = run(*given).stderr
        assert "at most" in said
        assert "tokens fit" in said
    with monkeypatch.context() as patched:
        patched.setattr(ask_room.shutil, "disk_usage", lambda path: namedtuple("_", "free")(1000))
        assert "save on another disk" in run(*given, "--save", str(tmp_path / "kept")).stderr


def test_the_cache_may_lie_elsewhere(
    model: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_host = run(*words(model, book, QUESTIONS[0], "--cache", "host"))
    assert on_host.exit_code == 0, on_host.output
    assert on_host.stdout == expected()[0] + "\n"
    monkeypatch.setattr("reattention_eval.cli.ask.load_model", None)
    said = run(*words(model, book, QUESTIONS[0], "--cache", "disk"))
    assert said.exit_code == 2
    assert "unknown cache 'disk'; there are: device, values_on_host, host, auto." in said.stderr


def test_a_text_too_large_for_one_tier_is_offered_another(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU of 1.5 GiB; 2 MiB beside it hold nothing."""
    method, tokens = ReAttention(**SETTINGS), 4_000_000  # 1.9 GiB of keys and values in float32
    monkeypatch.setattr(ask_room, "_memory", lambda device: 3 << 29)

    def asked(cache: str) -> None:
        where = (Path("book.txt"), str(model), method, tokens, 100, "float32", "cuda:0", None)
        ask_room.check_room(*where, cache)

    monkeypatch.setattr(ask_room, "main_memory", lambda: 1 << 40)
    with pytest.raises(DataError, match=r"model; all of it fits with --cache values_on_host\."):
        asked("device")
    for cache in ("values_on_host", "host", "auto"):
        asked(cache)
    monkeypatch.setattr(ask_room, "main_memory", lambda: 1 << 21)
    with pytest.raises(
        DataError, match=r"GiB of a GPU and 1\.\d of main memory, and 1\.5 and 0\.0"
    ):
        asked("auto")


def test_a_question_that_no_tokenizer_reads_loses_nothing(model: Path, book: Path) -> None:
    """Bytes that are no UTF-8: said before anything is loaded, or, as a line among others, alone,
    though the stream is one that refuses them."""
    lines = "\n".join([QUESTIONS[0], "\udcff\udcfe", QUESTIONS[1]]).encode(errors="surrogateescape")
    done = CliRunner().invoke(app, ["ask", *words(model, book)], input=lines)
    assert done.exit_code == 2, done.output
    for answer in expected():
        assert answer.strip() in done.stdout
    assert "the question holds half a character (U+DCFF at character 0)" in done.stderr
    refused = run(*words(model, book, "\udcff?"))
    assert refused.exit_code == 2 and "the question holds half a character" in refused.stderr


def test_a_disk_that_refuses_what_was_read_ends_no_session(
    model: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reattention_eval.engine.saved.bytes_of", full)
    done = run(*words(model, book, QUESTIONS[0]), "--save", str(tmp_path / "kept"))
    assert done.exit_code == 2
    assert done.stdout.strip() == expected()[0].strip()
    assert "what was read cannot be saved" in done.stderr
    assert not (tmp_path / "kept").exists()


def test_a_file_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_file, "main_memory", lambda: 64 << 20)
    done = run("/dev/zero", "Why?")
    assert done.exit_code == 2 and "tokenising it takes more than the 0.1 GB" in done.stderr


def test_what_a_method_cannot_read_is_said(model: Path, tmp_path: Path) -> None:
    """Full attention fails beyond the trained window; what it then answers is not to be trusted."""
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 7)
    said = "full reads 4,096 tokens on this model, which was trained to 4,096, and fails beyond"
    command = [*words(model, long, "Who?"), "--method", "full"]
    done = run(*command)
    assert done.exit_code == 0 and said in done.stderr
    done = run(*words(model, long, "Who?"))
    assert done.exit_code == 0 and "trained" not in done.stderr


def test_nothing_asked_is_said(model: Path, book: Path, tmp_path: Path) -> None:
    empty = run(*words(model, tmp_path / "no such file", "  "))
    assert (empty.exit_code, "the question is empty" in empty.stderr) == (2, True)
    read = run(*words(model, book), stdin="\n")
    assert (read.exit_code, "nothing was asked" in read.stderr) == (2, True)
    kept = run(*words(model, book, "--save", tmp_path / "kept"))
    assert (kept.exit_code, kept.stdout) == (0, "")
    # a stdin that is at its end is seen before the text is
    with open(os.devnull) as nothing:
        command = [*COMMAND, *words(model, tmp_path / "no such file")]
        done = subprocess.run(command, stdin=nothing, capture_output=True, text=True, timeout=100)
    assert (done.returncode, "nothing was asked" in done.stderr) == (2, True)


def test_a_command_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdin", "stdout", "stderr"):  # as behind `<&- >&- 2>&-`
        monkeypatch.setattr(sys, name, None)

    @readable_errors
    def command() -> str:
        sys.stdout.write("said")
        sys.stderr.write("said")
        return sys.stdin.read()

    assert command() == ""


def test_auto_reads_what_no_tier_alone_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million tokens of the 8B shape on 80 GB, with 100 GiB beside them (all keys and values are
    128)."""
    monkeypatch.setattr(ask_room, "_memory", lambda device: 77 << 30)
    monkeypatch.setattr(ask_room, "main_memory", lambda: 100 << 30)
    name, method = "meta-llama/Llama-3.1-8B", ReAttention()
    where = Path("book.txt"), name, method, 1_040_000, 1000, "bfloat16", "cuda:0", None
    ask_room.check_room(*where, "auto")
    with pytest.raises(DataError, match=r"all of it fits with --cache auto\."):
        ask_room.check_room(*where, "host")


def test_encodings(model: Path, book: Path) -> None:
    answers = set()
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        book.write_bytes(TEXT.encode(encoding))
        more = [] if encoding.startswith("utf-8") else ["--encoding", encoding]
        answers.add(run(*words(model, book, QUESTIONS[0], *more)).stdout)
    assert answers == {expected()[0] + "\n"}

"""`reattention-eval ask`: a text is read once; Ctrl-C keeps what there is."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ask_words import COMMAND, QUESTIONS, TEXT, expected, run, words

from reattention_eval.cli import reading


def test_questions_of_stdin_and_what_was_saved(model: Path, book: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    lines = "\n".join(["", *QUESTIONS, ""])
    done = run(*words(model, book, "--save", kept), stdin=lines)
    assert done.exit_code == 0, done.output
    pairs = zip(QUESTIONS, expected(), strict=True)
    said = "".join(f"question> {question}\n{answer}\n" for question, answer in pairs)
    assert done.stdout == said
    assert "tokens/s" in done.stderr
    # the method, the model and the dtype are the saved ones'
    again = run(str(book), QUESTIONS[1], "--load", str(kept), "--max-new-tokens", "8")
    assert again.exit_code == 0, again.output
    assert again.stdout == expected()[1] + "\n"
    assert "loaded" in again.stderr
    assert "tokens/s" not in again.stderr
    wrong = run(str(book), "Why?", "--load", str(kept), "--method", "full")
    assert wrong.exit_code == 2
    assert "was read under reattention:" in wrong.stderr
    book.write_text(TEXT.replace("number 20", "number 14"))
    other = run(*words(model, book, QUESTIONS[0], "--load", kept))
    assert other.exit_code == 2
    assert "another text" in other.stderr
    book.write_text(TEXT + " And that is all.")  # what is new is read behind it
    more = run(*words(model, book, *QUESTIONS[:1], "--load", kept))
    assert more.stdout == expected(TEXT + " And that is all.")[0] + "\n"


@pytest.mark.parametrize("saved", [False, True], ids=["answered", "saved"])
def test_ctrl_c_while_reading(
    model: Path, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    """What was read is answered from, or saved and read on with `--load`."""
    at = reading.Reading.at

    def interrupted(self: reading.Reading, read: int) -> None:
        at(self, read)
        if read == 160:
            os.kill(os.getpid(), signal.SIGINT)

    kept = tmp_path / "kept"
    more = ["--save", kept] if saved else [QUESTIONS[0]]
    with monkeypatch.context() as patched:
        patched.setattr(reading.Reading, "at", interrupted)
        done = run(*words(model, book, *more))
    assert "reading ended at 160 of " in done.stderr, done.output
    if not saved:
        assert done.exit_code == 0
        assert done.stdout == expected(read=160)[0] + "\n"
        return
    assert done.exit_code == 130
    assert done.stdout == ""
    on = run(*words(model, book, QUESTIONS[0], "--load", kept))
    assert on.stdout == expected()[0] + "\n", on.output
    assert "loaded 160 tokens" in on.stderr


def test_at_a_terminal(model: Path, book: Path) -> None:
    """Questions are typed; Ctrl-C ends one answer and no more; Ctrl-D ends."""
    given = words(model, book)
    given[-1] = "100000"  # an answer that nobody waits for
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *given], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        preexec_fn=lambda: os.set_blocking(0, True), env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    try:
        for asked in range(2):
            seen = until(master, b"question> ")
            os.write(master, QUESTIONS[asked].encode() + b"\n")
            until(master, b"\n")
            seen = until(master, b" ")  # the answer has begun
            process.send_signal(signal.SIGINT)
        seen = until(master, b"question> ")
        os.write(master, b"\x04")
        assert process.wait(60) == 130
        assert b"Traceback" not in seen
    finally:
        process.kill()
        process.wait()
        os.close(master)


def until(master: int, mark: bytes, seconds: float = 120.0) -> bytes:
    """What the terminal shows up to `mark`."""
    seen, end = b"", time.monotonic() + seconds
    while mark not in seen:
        assert time.monotonic() < end, seen
        if select.select([master], [], [], 1.0)[0]:
            seen += os.read(master, 1)
    return seen

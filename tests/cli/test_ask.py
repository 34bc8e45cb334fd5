"""`reattention-eval ask`: a text is read once; Ctrl-C keeps what there is."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from click.testing import Result
from tiny_models import tiny_model
from tiny_tokenizers import tiny_tokenizer
from typer.testing import CliRunner

from reattention_eval import ReAttention, attach
from reattention_eval.cli import app, ask_room, reading, text_file
from reattention_eval.cli.console import readable_errors
from reattention_eval.document_prompt import DocumentPrompt
from reattention_eval.errors import DataError

TEXT = " ".join(f"The dog number {i} sleeps in house {i * 7 % 91}." for i in range(30))
METHOD = "reattention:global_size=4,local_size=32,span_size=4,top_k=2,max_spans=8,chunk_size=16"
SETTINGS = dict(global_size=4, local_size=32, span_size=4, top_k=2, max_spans=8, chunk_size=16)
QUESTIONS = ["Where does the dog sleep?", "What is the number?"]
COMMAND = [sys.executable, "-c", "from reattention_eval.cli import app; app()", "ask"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ask") / "model"
    made = tiny_model(window=4096, vocab_size=500, dtype=torch.float32)
    made.generation_config.eos_token_id = None
    made.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_text(TEXT)
    return path


def words(model: Path, book: Path, *more: object) -> list[str]:
    fixed = ["--model", model, "--method", METHOD, "--dtype", "float32", "--device", "cpu"]
    return [str(word) for word in (book, *more, *fixed, "--max-new-tokens", 8)]


def run(*given: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["ask", *given], input=stdin)


def expected(text: str = TEXT, read: int | None = None) -> list[str]:
    """The answers of a session that reads every prompt from its beginning."""
    tokenizer = tiny_tokenizer()
    document, found = DocumentPrompt(tokenizer, text), []
    made = tiny_model(window=4096, vocab_size=500, dtype=torch.float32)
    made.generation_config.eos_token_id = None
    with attach(made, ReAttention(**SETTINGS)) as session:
        for question in QUESTIONS:
            ids = torch.tensor([document.ask(question, read)])
            stop = [tokenizer.eos_token_id]
            tokens = session.generate(ids, 8, reuse_prefix=False, stop_token_ids=stop)
            found.append(tokenizer.decode(tokens[0], skip_special_tokens=True))
    return found


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

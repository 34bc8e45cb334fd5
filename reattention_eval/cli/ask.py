"""`reattention-eval ask`: a text is read once, then questions about it are answered."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import TYPE_CHECKING, Any

import torch

from reattention_eval.checkpoints import load_model, load_tokenizer, model_path
from reattention_eval.checkpoints.embedded_models import DEFAULT_MODEL
from reattention_eval.checkpoints.local import is_embedded
from reattention_eval.cli.ask_room import check_room, pick_device
from reattention_eval.cli.console import MISUSED, err, out
from reattention_eval.cli.ctrl_c import INTERRUPTED, CtrlC
from reattention_eval.cli.reading import Reading
from reattention_eval.cli.text_file import read_text
from reattention_eval.context_length import known_context_length
from reattention_eval.document_prompt import DocumentPrompt
from reattention_eval.engine import Session, attach
from reattention_eval.engine.fit import check_cache, fitting
from reattention_eval.engine.save_hooked import check_method, check_savable, read_prompt
from reattention_eval.engine.saved import check_target
from reattention_eval.errors import ConfigError, DataError, ReAttentionError
from reattention_eval.methods import Method, ReAttention, ViewMethod, build_method, method_of_text
from reattention_eval.unicode_text import require_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTION_TOKENS = 1024  # room for a question behind the document
NOT_ASKED = (
    "nothing was asked: give a QUESTION, or questions as lines of stdin, or keep what was read "
    "with --save."
)


@dataclass(frozen=True)
class Wishes:
    """What the command was told; None where it has to find out."""

    file: Path
    question: str | None
    model: str | None
    method: str | None
    max_new_tokens: int
    save: Path | None
    load: Path | None
    dtype: str
    device: str | None
    cache: str
    encoding: str

    @property
    def room(self) -> int:
        """Tokens behind the document."""
        return QUESTION_TOKENS + self.max_new_tokens


def ask(wishes: Wishes) -> int:
    """Read, answer, save; the command's status.

    Raises:
        ReAttentionError: whatever is known to go wrong, before the model is loaded where it is
            known then.
    """
    if wishes.question is not None:
        if not wishes.question.strip():
            raise ConfigError("the question is empty; give one, or leave it out to type it later.")
        require_text(wishes.question, "the question")
    elif not wishes.save and _at_its_end():
        raise ConfigError(NOT_ASKED)
    text = read_text(wishes.file, wishes.encoding)
    saved, kept = read_prompt(wishes.load) if wishes.load else ({}, [])
    if wishes.save:
        check_target(wishes.save.expanduser())
    method = _method(wishes, saved)
    check_cache(wishes.cache)
    if wishes.save:
        check_savable(method)
    if wishes.load:
        check_method(wishes.load, saved, method)
    name = wishes.model or saved.get("model") or DEFAULT_MODEL
    name = name if is_embedded(name) else model_path(name)
    device = pick_device(wishes.device)
    tokenizer = load_tokenizer(name)
    document = DocumentPrompt(tokenizer, text)
    _check_kept(wishes, document, kept)
    dtype = saved["dtype"] if wishes.dtype == "auto" and saved else wishes.dtype
    tokens = len(document.ids)
    _say(f"{wishes.file}: {tokens:,} tokens for {Path(name).name} under {method.name}")
    check_room(
        wishes.file, name, method, tokens, wishes.room, dtype, device, wishes.save, wishes.cache
    )
    model, _ = load_model(
        name,
        dtype=dtype,
        device_map=None if device == "cpu" else device,
        configure=fitting(method),
    )
    with attach(model, method, cache=wishes.cache) as session:
        _say_reach(session, tokens)
        if wishes.load:
            session.load(wishes.load, max_new_tokens=tokens - len(kept) + wishes.room)
            _say(f"loaded {len(kept):,} tokens from {wishes.load}")
        read = _read(session, document.ids, len(kept), wishes.room)
        if read < tokens:
            _say(f"reading ended at {read:,} of {tokens:,} tokens ({read / tokens:.0%})")
        saved_now = wishes.save is not None and _save(session, wishes.save)
        if read < tokens:
            if saved_now:
                _say(f"--load {wishes.save} goes on with the rest")
                return INTERRUPTED
            _say("questions are answered from what was read")
        status = _answer_all(session, tokenizer, document, read, wishes)
        return status or (MISUSED if wishes.save and not saved_now else 0)


def _at_its_end() -> bool:
    """Whether stdin has nothing and will have nothing, as /dev/null; a pipe may say more later."""
    stdin: Any = sys.stdin
    try:
        return not stdin.isatty() and bool(
            select([stdin], [], [], 0)[0] and not stdin.buffer.peek(1)
        )
    except (AttributeError, OSError, ValueError):  # none is there, or none that can be waited for
        return False


def _save(session: Session, folder: Path) -> bool:
    """False where it could not be, which is said: what was read can still be asked about."""
    _say("saving")
    try:
        session.save(folder)
    except ReAttentionError as error:
        _fail(error)
        return False
    _say(f"saved in {folder}")
    return True


def _method(wishes: Wishes, saved: dict[str, Any]) -> Method:
    if wishes.method is not None:
        method = method_of_text(wishes.method)
    else:
        method = build_method(saved["method"]) if saved else ReAttention()
    if not isinstance(method, ViewMethod):
        raise ConfigError(
            f"{method.name} runs on the model's own cache, which cannot go back to the document's "
            "end for the next question; choose another, such as full or reattention."
        )
    return method


def _say_reach(session: Session, tokens: int) -> None:
    window = known_context_length(session.model.config)
    reach = session.method.reach(window)
    if reach is not None and tokens > reach:
        _say(
            f"{session.method.name} reads {reach:,} tokens on this model, which was trained to "
            f"{window:,}, and fails beyond: do not trust its answers about {tokens:,}; "
            "reattention reads any number"
        )


def _check_kept(wishes: Wishes, document: DocumentPrompt, kept: list[int]) -> None:
    """What was saved must be the beginning of this text."""
    if document.ids[: len(kept)] == kept:
        return
    both = zip(document.ids, kept, strict=False)
    alike = next((i for i, (x, y) in enumerate(both) if x != y), len(document.ids))
    raise ConfigError(
        f"{wishes.load} keeps {len(kept):,} tokens of another text than {wishes.file}, or of "
        f"another tokenizer's ({alike:,} tokens agree); give the file that was read, or leave "
        "--load out."
    )


def _read(session: Session, ids: list[int], held: int, room: int) -> int:
    """Read what lies behind the first `held` tokens; tokens of the document that are then read."""
    if held == len(ids):
        return held
    device = next(session.model.parameters()).device
    with CtrlC() as stop, Reading(len(ids), held, device) as reading:

        def progress(read: int) -> bool:
            reading.at(read)
            return stop.pressed

        session.prefill(
            torch.tensor([ids]),
            reuse_prefix=True,
            max_new_tokens=room,
            document_tokens=len(ids),
            progress=progress,
        )
    _say(f"read {reading.summary()}")
    return session.lengths[0]


def _answer_all(
    session: Session,
    tokenizer: PreTrainedTokenizerBase,
    document: DocumentPrompt,
    read: int,
    wishes: Wishes,
) -> int:
    """Every answer begins at the document's end: only the question is read."""
    from transformers import TextStreamer

    said_by: Any = tokenizer
    ends = [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]
    status = asked = refused = 0
    for question in _questions(wishes.question):
        asked += 1
        shown = TextStreamer(said_by, skip_prompt=True, skip_special_tokens=True)
        try:
            prompt = torch.tensor([document.ask(question, read)])
        except DataError as error:  # what was read is not lost for it
            _fail(error)
            refused += 1
            continue
        with CtrlC() as stop:
            session.generate(
                prompt,
                wishes.max_new_tokens,
                document_tokens=read,
                stop_token_ids=ends,
                stop=stop.ends,
                streamer=shown,
            )
        status = INTERRUPTED if stop.pressed else 0
        sys.stdout.flush()
    if not asked and not wishes.save and not sys.stdin.isatty():
        raise ConfigError(NOT_ASKED)
    return status or (MISUSED if refused else 0)


def _questions(first: str | None) -> Iterator[str]:
    """The command line's; then what is typed at a terminal, or, without one, stdin line by line."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a broken line is told apart, and refused
    if first is not None:
        yield first
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (lets a line be edited)
        while True:
            try:
                question = input("question> ").strip()
            except (EOFError, KeyboardInterrupt):
                out.print()
                return
            if question:
                yield question
    elif first is None:
        for line in sys.stdin:
            if line.strip():
                out.print(f"question> {line.strip()}", markup=False, soft_wrap=True)
                yield line.strip()


def _fail(error: ReAttentionError) -> None:
    err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)


def _say(line: str) -> None:
    err.print(line, markup=False, soft_wrap=True)

"""What a session holds of its prompts and counts of its work, whichever calls made it."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from reattention_eval.attention.counts import Counts
from reattention_eval.attention.one_thread import OneThread
from reattention_eval.attention.token_ids import finite, non_finite, vocabulary
from reattention_eval.engine.progress import OnProgress
from reattention_eval.engine.saved import SavedPrompt
from reattention_eval.engine.stats import SessionStats, input_device
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method

_NOT_KEPT = (
    "what {} has read is in the model's own cache, of which it may have dropped keys, and is not "
    "kept on disk: save and load are for methods on the hook (full, reattention, streaming_llm)."
)


class SessionState(ABC):
    """Rows of tokens in a cache, the logits behind them, and the counters of what that took.

    What differs between methods on the hook and those on the model's own attention are the few
    steps at the end of this class (`hooked`, `native`).
    """

    def __init__(
        self, model: nn.Module, method: Method, one_thread: OneThread | None = None
    ) -> None:
        self.model = model
        self._one_thread = one_thread or OneThread()
        self.method: Method = method
        self._device = input_device(model)
        self._logits: Tensor | None = None  # [B, vocab] after the last token of every row
        self._unread: list[int] = []  # the last token of every row, where generate chose it
        self._prompt: list[int] = []  # of a single row: what of the cache a later prompt may share
        self._prompt_length = 0  # that the prompt was to have: longer where reading was ended
        self._vocabulary = vocabulary(model)
        self._closed = False
        self._users_forwards = 0
        self.reset_stats()

    @property
    @abstractmethod
    def stats(self) -> SessionStats:
        """Counters and times since the session began or `reset_stats`."""

    @property
    def reused(self) -> Counts:
        """What reading the prefixes that were still in the cache had taken, since `reset_stats`."""
        return Counts()

    @property
    @abstractmethod
    def lengths(self) -> list[int]:
        """Tokens that each row has read."""

    def reset(self) -> None:
        """Forget the cache's contents; storage that can be is kept for the next prompt."""
        self._require_open()
        with self._one_thread:
            self._empty()
            self._forget()

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._stats = SessionStats()
        if self._device.type == "cuda":
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def close(self) -> None:
        """Give back what only the attached model can use; nothing can be read any more."""
        self._count_users()
        self._closed = True

    @abstractmethod
    def check_selected(self) -> None:
        """Raise SelectionError if a step that had to select keys did not."""

    @contextmanager
    def watching_views(self) -> Iterator[Callable[[], list[list[int]]]]:
        """What is yielded tells, for each layer, the positions that the last chunk read inside
        attended to, as [start, end, start, end, ...] without the ends; empty for a layer that
        attended to all there was, and where the method has no views. Of a single prompt."""
        yield list

    def _require_open(self) -> None:
        if self._closed:
            raise ConfigError(
                "this session is closed: its `with attach(...)` block has ended and the model is "
                "as it was. Attach again, and call the session inside the block."
            )

    def _require_prompt(self, what: str) -> None:
        self._count_users()
        if self._logits is None and not self._unread:
            raise ConfigError(f"{what} behind what the session has read. Call prefill first.")

    def _forget(self) -> None:
        self._logits, self._unread, self._prompt = None, [], []
        self._users_forwards = self._user_forwards()

    def _count_users(self) -> None:
        """Forwards of the user's own, model.generate's too, have taken the cache."""
        if self._users_forwards != self._user_forwards():
            self._forget()

    def _read_unread(self) -> None:
        """Bring the tokens that generate chose last into the cache."""
        if self._unread:
            self._make_room(0)
            tokens, prompt = self._unread, self._prompt
            self._forget()
            self._logits = self._checked(self._step(tokens, list(range(len(tokens)))))
            self._prompt = prompt

    def _taken_logits(self) -> Tensor:
        """Those to continue from; where that fails there are none to continue from any more."""
        logits, self._logits = self._logits, None
        assert logits is not None
        return logits

    def _checked(self, logits: Tensor) -> Tensor:
        if not bool(finite(logits).all()):
            self._forget()
            raise non_finite(logits, "behind the last token")
        return logits

    def _step(self, tokens: list[int], rows: list[int]) -> Tensor:
        with self._timed("decode_seconds"):
            logits = self._next(tokens, rows)
        self._stats.decode_tokens += len(tokens)
        return logits

    @contextmanager
    def _timed(self, field: str) -> Iterator[None]:
        self._synchronize()
        start = time.perf_counter()
        yield
        self._synchronize()
        setattr(self._stats, field, getattr(self._stats, field) + time.perf_counter() - start)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    # -- what the kinds of methods do in their own ways -------------------------------------------

    @abstractmethod
    def _empty(self) -> None:
        """Hold nothing of any row."""

    @abstractmethod
    def _start(self, rows: int, capacity: int) -> None:
        """Empty rows with room for so many tokens each."""

    @abstractmethod
    def _read(self, rows: list[list[int]], done: int, progress: OnProgress | None) -> Tensor:
        """Read each row's tokens from `done` on behind what it holds: logits [B, vocab].

        progress: as for `prefill`.
        """

    @abstractmethod
    def _next(self, tokens: list[int], rows: list[int]) -> Tensor:
        """One token more of each of `rows` (those still going): logits [rows, vocab]."""

    @abstractmethod
    def _read_all(self, tokens: list[int]) -> Iterator[Tensor]:
        """The only row's first tokens, part by part as a prompt is read: logits [t, vocab] behind
        every one of them."""

    @abstractmethod
    def _returning(self) -> AbstractContextManager[None]:
        """What is read inside the block is forgotten behind it."""

    def _save(self, folder: Path) -> None:
        """Keep the only row's cache in `folder`."""
        raise ConfigError(_NOT_KEPT.format(self.method.name))

    def _load(self, folder: Path, room: int) -> SavedPrompt:
        """Put what `folder` keeps into the cache, with room behind it."""
        raise ConfigError(_NOT_KEPT.format(self.method.name))

    def _keep_prefix(self, rows: list[list[int]], room: int) -> int:
        """Go back to what the new prompts share with the old ones; tokens kept."""
        return 0

    def _reserve(self, capacity: int) -> None:  # noqa: B027
        """Make room for `capacity` tokens a row, keeping what is there."""

    def _make_room(self, tokens: int) -> None:  # noqa: B027
        """The same for `tokens` tokens behind what each row has, and some behind them, where there
        is less."""

    def _expect(self, lengths: list[int]) -> None:  # noqa: B027
        """Each row's prompt will have so many tokens."""

    def _plan(self, rows: list[list[int]], document: int | None) -> None:  # noqa: B027
        """Prompts or turns are going to be read. `document`: so many tokens of a single prompt are
        its document; None where that is not known, 0 of turns.

        Raises:
            ConfigError: the method has to know.
        """

    def _begin(self, kept: int) -> None:  # noqa: B027
        """The prompts that were planned are read next; `kept` tokens of them are there already."""

    def _reusable(self, prompt: list[int]) -> list[int]:
        """What of the prompt that was read a later one may share."""
        return prompt[: self.lengths[0]]

    def _user_forwards(self) -> int:
        """How many forwards of the user's own took the cache."""
        return 0

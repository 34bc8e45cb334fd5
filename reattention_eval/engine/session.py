"""The session: prompts through a model under a method, and tokens out of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

from reattention_eval.engine.arguments import (
    document_end,
    next_tokens,
    token_list,
    token_rows,
    whole_number,
)
from reattention_eval.engine.generation import Sampler, StopRule, Stream, chosen_tokens, fill
from reattention_eval.engine.progress import OnProgress
from reattention_eval.engine.scoring import answer_nll
from reattention_eval.engine.session_state import SessionState
from reattention_eval.engine.stats import logits_device
from reattention_eval.errors import ConfigError

P = ParamSpec("P")
R = TypeVar("R")


def _alone(
    method: Callable[Concatenate[Session, P], R],
) -> Callable[Concatenate[Session, P], R]:
    """Without gradients, and refused while another thread is in the session."""

    @functools.wraps(method)
    def call(self: Session, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._one_thread, torch.inference_mode():
            return method(self, *args, **kwargs)

    return call


class Session(SessionState):
    """What `attach` yields, the same for every method. One batch of prompts at a time lives in its
    cache. Logits that a call gives are the caller's own, to be written into.

    Every call that reads tokens raises ConfigError for input it cannot take, before anything is
    computed, while another thread's call goes on, and once the `with` block has ended; and
    NonFiniteLogitsError where the logits that it answers with, or takes a token or a likelihood
    from, are not all numbers.
    """

    @_alone
    def prefill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        reuse_prefix: bool = False,
        max_new_tokens: int = 0,
        document_tokens: int | None = None,
        progress: OnProgress | None = None,
    ) -> Tensor:
        """Read prompts from their beginning, chunk by chunk.

        Args:
            input_ids: [B, T] token ids.
            attention_mask: [B, T], 1 for real tokens, for prompts padded on the left.
            reuse_prefix: a single prompt keeps the KV of what it shares with the previous one,
                cut at a chunk boundary: the same bits as without.
            max_new_tokens: room to reserve behind the prompt.
            document_tokens: of a single prompt, how many of its tokens stand before its question:
                for methods that treat the two differently; others read the prompt as one.
            progress: of a single prompt: told after each forward how many of its tokens are read.
                A true answer ends the reading there: the session then holds so much of the prompt
                (`lengths`), and the same prompt with `reuse_prefix` goes on from it.

        Returns:
            logits [B, vocab] of each row's last token; of the last one read.

        Raises:
            ConfigError: no tokens or unknown ones, a mask that is not left padding; a method that
                cannot read this prompt.
        """
        self._require_open()
        rows = token_rows(input_ids, attention_mask, self._vocabulary)
        room = whole_number(max_new_tokens, "max_new_tokens", 0)
        if progress is not None and len(rows) != 1:
            raise ConfigError(f"progress is of a single prompt; found {len(rows)} of them.")
        document = document_end(document_tokens, rows)
        return self._prefill(rows, reuse_prefix, room, progress, document)

    @_alone
    def extend(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        max_new_tokens: int = 0,
    ) -> Tensor:
        """Read a turn behind what every row holds; only the turn is computed.

        A conversation goes on so: the tokens of `generate`, the last one included, are already
        part of it, and the turn's chunks are counted from the turn's first token.

        Args:
            input_ids: [B, T] token ids, one turn for each row of the cache.
            attention_mask: [B, T], 1 for real tokens, for turns padded on the left.
            max_new_tokens: room to reserve behind the turn.

        Returns:
            logits [B, vocab] of each row's last token.

        Raises:
            ConfigError: nothing was prefilled, another number of rows; as `prefill`.
        """
        self._require_open()
        rows = token_rows(input_ids, attention_mask, self._vocabulary)
        room = whole_number(max_new_tokens, "max_new_tokens", 0)
        self._require_prompt("extend adds a turn")
        if len(rows) != len(self.lengths):
            raise ConfigError(
                f"extend takes a turn for each of the {len(self.lengths)} rows of the cache; found "
                f"{len(rows)}."
            )
        self._plan(rows, 0)
        unread = bool(self._unread)
        lengths = [held + unread + len(row) for held, row in zip(self.lengths, rows, strict=True)]
        self._reserve(max(lengths) + room)
        self._read_unread()
        prompt = self._prompt
        self._forget()
        self._expect(lengths)
        self._logits = self._prefilled(rows, 0, None)
        self._prompt = prompt  # still the cache's beginning
        return self._logits.clone()

    @_alone
    def decode(self, token_ids: Tensor) -> Tensor:
        """One more token of every row: [B, 1] ids -> logits [B, vocab] behind it.

        Raises:
            ConfigError: nothing was prefilled, or the batch differs from the prefilled one.
        """
        self._require_open()
        self._require_prompt("decode adds a token")
        tokens = next_tokens(token_ids, len(self.lengths), self._vocabulary)
        if self._unread:
            raise ConfigError(
                "the tokens of generate are part of the cache already, so decode would read one "
                "twice: go on with generate() or extend(turn), or call prefill with a prompt."
            )
        self._make_room(1)
        self._taken_logits()
        self._logits = self._checked(self._step(tokens, list(range(len(tokens)))))
        return self._logits.clone()

    @_alone
    def generate(
        self,
        input_ids: Tensor | None = None,
        max_new_tokens: int = 32,
        attention_mask: Tensor | None = None,
        *,
        reuse_prefix: bool = True,
        document_tokens: int | None = None,
        stop_token_ids: Sequence[int] = (),
        stop: Callable[[list[int]], bool] | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int = 0,
        streamer: Any = None,
    ) -> Tensor:
        """New tokens behind the prompts, greedy unless a temperature is given.

        Args:
            input_ids: [B, T] whole prompts; a single one reuses what it shares with the prompt
                before it (see `prefill`). None: continue behind the last call, whichever it was.
            max_new_tokens: at least 1.
            attention_mask: as for `prefill`.
            document_tokens: as for `prefill`.
            stop_token_ids: end a row, besides the model's own end tokens.
            stop: called with the new tokens of a row after each; True ends the row.
            temperature: sample from softmax(logits / temperature), seeded by `seed`.
            top_p: sample from the most likely tokens that make up this probability.
            top_k: sample from so many of the most likely tokens (applied before top_p).
            streamer: told the prompt, then the new tokens [B] after each step (padding where a
                row is done), as transformers does.

        Returns:
            int64 [B, <= max_new_tokens], the end token included, padded behind it.
        """
        self._require_open()
        limit = whole_number(max_new_tokens, "max_new_tokens", 1)
        rule = StopRule.of(self.model, stop_token_ids, stop)
        pick = Sampler(temperature, seed, top_p, top_k)
        if input_ids is None:
            self._require_prompt("nothing to continue: without input_ids, generate goes on")
            stream = Stream(streamer, None, len(self.lengths), rule.pad)
            self._make_room(limit)
            self._read_unread()
        else:
            prompts = token_rows(input_ids, attention_mask, self._vocabulary)
            stream = Stream(streamer, input_ids, len(prompts), rule.pad)
            document = document_end(document_tokens, prompts)
            self._prefill(prompts, reuse_prefix, limit, None, document)
        new = chosen_tokens(self._taken_logits(), self._step, rule, pick, stream, limit)
        self._unread = [row[-1] for row in new]
        stream.end()
        return fill(new, rule.pad).to(self._device)

    @_alone
    def answer_nll(self, answer_ids: Sequence[int]) -> float:
        """Mean negative log-likelihood per token (nats) of an answer, teacher forced.

        For a single prefilled prompt; the session is afterwards as it was before.
        """
        self._require_open()
        answer = token_list(answer_ids, "answer_ids", self._vocabulary)
        self._require_prompt("answer_nll scores an answer")
        if len(self.lengths) != 1 or not answer:
            raise ConfigError(
                "answer_nll scores a non-empty answer behind one prefilled prompt; call prefill "
                "with a single prompt first."
            )
        self._make_room(len(answer))
        self._read_unread()
        return answer_nll(self, answer)

    @_alone
    def save(self, folder: str | os.PathLike[str]) -> None:
        """Keep what the cache holds of a single prompt, and what was read behind it, on disk.

        Keys and values of every layer as they are stored, in safetensors files, and session.json,
        which says what they belong to. The folder is made, or takes the place of one that was
        saved before; it gets its name when it is whole.

        Raises:
            ConfigError: nothing was read, several rows, a native method (its cache is the model's
                own), one that keeps what comes from the queries (infllm), a model spread over
                processes, a folder that holds something else.
            DataError: too little room on the disk, or it does not take the files.
        """
        self._require_open()
        self._require_prompt("save keeps what was read")
        if len(self.lengths) != 1:
            raise ConfigError(
                f"save keeps a single prompt; the cache holds {len(self.lengths)} rows. Prefill "
                "the one that is to be kept."
            )
        self._read_unread()
        self._save(Path(folder))

    @_alone
    def load(self, folder: str | os.PathLike[str], *, max_new_tokens: int = 0) -> Tensor:
        """Hold what `save` kept, and go on as if it had just been read: the same bits.

        Args:
            folder: what `save` wrote under an equal method (settings that change no prediction
                may differ) on the same model, in the same dtype.
            max_new_tokens: room to reserve behind it.

        Returns:
            logits [1, vocab] of the last token.

        Raises:
            ConfigError: another model, method or dtype; as `save`. The session is as it was.
            DataError: no saved session, files missing (the session is as it was), or damaged (it
                holds nothing).
        """
        self._require_open()
        room = whole_number(max_new_tokens, "max_new_tokens", 0)
        saved = self._load(Path(folder), room)
        self._forget()
        self._prompt, self._prompt_length = saved.prompt, saved.prompt_length
        self._logits = saved.logits.to(logits_device(self.model))
        return self._logits.clone()

    def _prefill(
        self,
        rows: list[list[int]],
        reuse_prefix: bool,
        room: int,
        progress: OnProgress | None = None,
        document: int | None = None,
    ) -> Tensor:
        self._plan(rows, document)
        kept = self._keep_prefix(rows, room) if reuse_prefix else 0
        if not kept:
            self._start(len(rows), max(map(len, rows)) + room)
        self._expect([len(row) for row in rows])
        self._forget()  # a prefill that is cut short leaves nothing to reuse
        self._begin(kept)
        self._logits = self._prefilled(rows, kept, progress)
        self._stats.reused_tokens += kept
        if len(rows) == 1:
            self._prompt, self._prompt_length = self._reusable(rows[0]), len(rows[0])
        return self._logits.clone()

    def _prefilled(self, rows: list[list[int]], done: int, progress: OnProgress | None) -> Tensor:
        held = sum(self.lengths)
        with self._timed("prefill_seconds"):
            logits = self._read(rows, done, progress)
        self._stats.prefill_tokens += sum(self.lengths) - held
        return self._checked(logits)

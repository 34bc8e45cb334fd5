"""The session: prompts through a hooked model, in chunks, and tokens out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook, RowStep
from reattention_eval.attention.counts import Counts
from reattention_eval.attention.token_ids import finite, non_finite, vocabulary
from reattention_eval.engine.arguments import next_tokens, token_list, token_rows, whole_number
from reattention_eval.engine.decode_graph import RepeatedDecode
from reattention_eval.engine.generation import Sampler, StopRule, Stream, fill
from reattention_eval.engine.progress import prompt_progress
from reattention_eval.engine.read_counts import ReadCounts
from reattention_eval.engine.stats import SessionStats, input_device, peak_bytes
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method


class Session:
    """What `attach` yields. One batch of prompts at a time lives in its cache.

    Every call that reads tokens raises ConfigError for input it cannot take, before anything is
    computed, and once the `with` block has ended; and NonFiniteLogitsError where the logits that
    it answers with, or takes a token or a likelihood from, are not all numbers.
    """

    def __init__(self, model: nn.Module, hook: Hook, method: Method) -> None:
        self.model = model
        self.method = method
        self._hook = hook
        self._device = input_device(model)
        self._repeats = RepeatedDecode(model, hook, method, self._device)
        self._logits: Tensor | None = None  # [B, vocab] after the last token of every row
        self._unread: list[int] = []  # the last token of every row, where generate chose it
        self._read_counts = ReadCounts(hook)
        self._prompt: list[int] = []  # of a single row: what of the cache came by prefill
        self._vocabulary = vocabulary(model)
        self._closed = False
        self._users_forwards = 0
        self.reset_stats()

    # -- state -----------------------------------------------------------------------------------

    @property
    def stats(self) -> SessionStats:
        """Counters and times since the session began or `reset_stats`, `model.generate` too."""
        hook, own = self._hook, self._stats
        users = hook.user
        return replace(
            own,
            layer_steps=hook.layer_steps,
            layer_steps_selected=hook.selected,
            mean_view=hook.view_tokens / hook.layer_steps if hook.layer_steps else 0.0,
            prefill_tokens=own.prefill_tokens + users.prefill_tokens,
            decode_tokens=own.decode_tokens + users.decode_tokens,
            prefill_seconds=own.prefill_seconds + users.prefill_seconds,
            decode_seconds=own.decode_seconds + users.decode_seconds,
            cache_bytes=sum(layer.nbytes for layer in hook.layers),
            peak_bytes=peak_bytes(self._device),
        )

    @property
    def reused(self) -> Counts:
        """What reading the prefixes that were still in the cache had taken, since `reset_stats`."""
        return self._read_counts.reused

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row of the cache holds."""
        return list(self._hook.layers[0].lengths)

    def reset(self) -> None:
        """Forget the cache's contents; its storage is kept for the next prompt."""
        self._require_open()
        self._hook.rewind([0] * len(self.lengths))
        self._forget()

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._hook.reset_counters()
        self._read_counts.reset()
        self._stats = SessionStats()
        if self._device.type == "cuda":
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def close(self) -> None:
        """Give back what only the attached model can use; nothing can be read any more."""
        self._count_users()
        self._closed = True
        self._repeats.close()

    def check_selected(self) -> None:
        """Raise SelectionError if a step that had to select keys did not."""
        self._hook.check_selected()

    # -- prompts and tokens ----------------------------------------------------------------------

    @torch.inference_mode()
    def prefill(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        reuse_prefix: bool = False,
        max_new_tokens: int = 0,
    ) -> Tensor:
        """Read prompts from their beginning, chunk by chunk.

        Args:
            input_ids: [B, T] token ids.
            attention_mask: [B, T], 1 for real tokens, for prompts padded on the left.
            reuse_prefix: a single prompt keeps the KV of what it shares with the previous one,
                cut at a chunk boundary: the same bits as without.
            max_new_tokens: room to reserve behind the prompt.

        Returns:
            logits [B, vocab] of each row's last token.

        Raises:
            ConfigError: no tokens or unknown ones, a mask that is not left padding.
        """
        self._require_open()
        rows = token_rows(input_ids, attention_mask, self._vocabulary)
        room = whole_number(max_new_tokens, "max_new_tokens", 0)
        return self._prefill(rows, reuse_prefix, room)

    @torch.inference_mode()
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
        unread = bool(self._unread)
        lengths = [held + unread + len(row) for held, row in zip(self.lengths, rows, strict=True)]
        self._hook.reserve_more(max(lengths) + room)
        self._read_unread()
        prompt = self._prompt
        self._forget()
        self._hook.expect(lengths)
        self._logits = self._prefilled(rows, 0)
        self._prompt = prompt  # still the cache's beginning
        return self._logits

    @torch.inference_mode()
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
        self._logits = self._checked(self._step(tokens, list(range(len(tokens)))))
        return self._logits

    @torch.inference_mode()
    def generate(
        self,
        input_ids: Tensor | None = None,
        max_new_tokens: int = 32,
        attention_mask: Tensor | None = None,
        *,
        reuse_prefix: bool = True,
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
            self._read_unread()
        else:
            prompts = token_rows(input_ids, attention_mask, self._vocabulary)
            stream = Stream(streamer, input_ids, len(prompts), rule.pad)
            self._prefill(prompts, reuse_prefix, limit)
        new = self._generated(rule, pick, stream, limit)
        stream.end()
        return fill(new, rule.pad).to(self._device)

    def _generated(
        self, rule: StopRule, pick: Sampler, stream: Stream, limit: int
    ) -> list[list[int]]:
        new: list[list[int]] = [[] for _ in self.lengths]
        logits, active = self._logits, list(range(len(new)))
        assert logits is not None
        self._logits = None  # nothing to continue from where a step fails
        while True:
            tokens = pick(logits)
            stream.put(active, tokens)
            for row, token in zip(active, tokens, strict=True):
                new[row].append(token)
            going = [i for i, row in enumerate(active) if not rule(new[row])]
            active = [active[i] for i in going]
            if not active or len(new[active[0]]) == limit:
                break
            logits = self._step([tokens[i] for i in going], active)
        self._unread = [row[-1] for row in new]
        return new

    @torch.inference_mode()
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
        self._read_unread()
        before, length = self._logits, self.lengths
        assert before is not None
        logits, found = before, []
        for i, token in enumerate(answer):
            chance = logits.double().log_softmax(-1)[0, token]
            found.append(torch.stack((chance, finite(logits)[0].double())))
            if i + 1 < len(answer):
                logits = self._step([token], [0])
        self._hook.rewind(length)
        chances, numbers = torch.stack(found, 1).tolist()  # waits for the device, once
        if not all(numbers):
            self._forget()
            raise non_finite(logits, f"behind token {numbers.index(0)} of the answer or before it")
        return -sum(chances) / len(answer)

    # -- inside ----------------------------------------------------------------------------------

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
        self._users_forwards = self._hook.user.forwards

    def _count_users(self) -> None:
        """Forwards of the user's own, model.generate's too, have taken the cache."""
        if self._users_forwards != self._hook.user.forwards:
            self._forget()

    def _read_unread(self) -> None:
        """Bring the tokens that generate chose last into the cache."""
        if self._unread:
            tokens, prompt = self._unread, self._prompt
            self._forget()
            self._logits = self._checked(self._step(tokens, list(range(len(tokens)))))
            self._prompt = prompt

    def _checked(self, logits: Tensor) -> Tensor:
        if not bool(finite(logits).all()):
            self._forget()
            raise non_finite(logits, "behind the last token")
        return logits

    def _prefill(self, rows: list[list[int]], reuse_prefix: bool, room: int) -> Tensor:
        kept = self._keep_prefix(rows, room) if reuse_prefix else 0
        if not kept:
            self._hook.start(len(rows), max(map(len, rows)) + room)
        self._hook.expect([len(row) for row in rows])
        self._forget()  # a prefill that is cut short leaves nothing to reuse
        self._read_counts.begin(kept)
        self._logits = self._prefilled(rows, kept)
        self._stats.reused_tokens += kept
        if len(rows) == 1:
            self._prompt = rows[0]
        return self._logits

    def _prefilled(self, rows: list[list[int]], done: int) -> Tensor:
        with self._timed("prefill_seconds"):
            logits = self._read(rows, done)
        self._stats.prefill_tokens += sum(map(len, rows)) - done * len(rows)
        return self._checked(logits)

    def _keep_prefix(self, rows: list[list[int]], max_new_tokens: int) -> int:
        """Go back to the last chunk boundary that the new prompt shares; tokens kept."""
        self._count_users()
        if len(rows) != 1 or not self._prompt:
            return 0
        new, old = rows[0], self._prompt
        if not self._hook.same_rope(len(new), len(old)):
            return 0
        limit = min(len(new) - 1, len(old))  # the last token is always computed: for its logits
        shared = next((i for i in range(limit) if new[i] != old[i]), limit)
        shared -= shared % self.method.chunk_size
        if shared:
            self._hook.rewind([shared])
            self._hook.reserve_more(len(new) + max_new_tokens)
        return shared

    def _read(self, rows: list[list[int]], done: int) -> Tensor:
        chunk = self.method.chunk_size
        logits: list[Tensor | None] = [None] * len(rows)
        longest = max(map(len, rows))
        with prompt_progress(longest - done, chunk) as advance:
            for start in range(done, longest, chunk):
                active = [row for row, ids in enumerate(rows) if len(ids) > start]
                parts = [rows[row][start : start + chunk] for row in active]
                last = self._forward(parts, active)
                for row, part, row_logits in zip(active, parts, last, strict=True):
                    if start + len(part) == len(rows[row]):
                        logits[row] = row_logits
                if len(rows) == 1:
                    self._read_counts.mark(self.lengths[0])
                advance(max(map(len, parts)))
        return torch.stack([row for row in logits if row is not None])

    def _step(self, tokens: list[int], rows: list[int]) -> Tensor:
        with self._timed("decode_seconds"):
            logits = self._repeats(tokens) if len(self.lengths) == 1 else None
            if logits is None:
                logits = self._forward([[token] for token in tokens], rows)
        self._stats.decode_tokens += len(tokens)
        return logits

    def _forward(self, parts: list[list[int]], rows: list[int]) -> Tensor:
        """The model over a part of each of `rows`: logits [rows, vocab] at their ends."""
        width = max(map(len, parts))
        ids = torch.tensor([part + [0] * (width - len(part)) for part in parts])
        ends = torch.tensor([len(part) - 1 for part in parts])
        wanted, index = ends.unique(return_inverse=True)
        together = len(wanted) == 1
        self._hook.drive([RowStep(row, 0, len(p)) for row, p in zip(rows, parts, strict=True)])
        # a list, not a tensor: the last layer may lie on another GPU than the ids
        logits = self.model(
            input_ids=ids.to(self._device), logits_to_keep=1 if together else wanted.tolist()
        ).logits  # [rows, wanted, vocab]
        return logits[:, 0] if together else logits[torch.arange(len(parts)), index]

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

"""The session: prompts through a hooked model, in chunks, and tokens out of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook, RowStep
from reattention_eval.engine.decode_graph import RepeatedDecode
from reattention_eval.engine.generation import Sampler, StopRule, fill
from reattention_eval.engine.progress import prompt_progress
from reattention_eval.engine.stats import SessionStats, input_device, peak_bytes
from reattention_eval.errors import ConfigError
from reattention_eval.methods import Method


class Session:
    """What `attach` yields. One batch of prompts at a time lives in its cache."""

    def __init__(self, model: nn.Module, hook: Hook, method: Method) -> None:
        self.model = model
        self.method = method
        self._hook = hook
        self._device = input_device(model)
        self._repeats = RepeatedDecode(model, hook, method, self._device)
        self._logits: Tensor | None = None  # [B, vocab] after the last token of every row
        self._prompt: list[int] = []  # of a single row: what of the cache came by prefill
        self.reset_stats()

    # -- state -----------------------------------------------------------------------------------

    @property
    def stats(self) -> SessionStats:
        """Counters and times since the session began or `reset_stats`."""
        hook, stats = self._hook, self._stats
        stats.layer_steps = hook.layer_steps
        stats.layer_steps_selected = hook.selected
        stats.mean_view = hook.view_tokens / hook.layer_steps if hook.layer_steps else 0.0
        stats.cache_bytes = sum(layer.nbytes for layer in hook.layers)
        stats.peak_bytes = peak_bytes(self._device)
        return stats

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row of the cache holds."""
        return list(self._hook.layers[0].lengths)

    def reset(self) -> None:
        """Forget the cache's contents; its storage is kept for the next prompt."""
        self._hook.rewind([0] * len(self.lengths))
        self._logits = None
        self._prompt = []

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._hook.reset_counters()
        self._stats = SessionStats()
        if self._device.type == "cuda":
            for device in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(device)

    def close(self) -> None:
        """Give back what only the attached model can use."""
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
            ConfigError: no tokens, a mask that is not left padding.
        """
        rows = _unpadded(input_ids, attention_mask)
        kept = self._keep_prefix(rows, max_new_tokens) if reuse_prefix else 0
        if not kept:
            self._hook.start(len(rows), max(map(len, rows)) + max_new_tokens)
        self._hook.expect([len(row) for row in rows])
        self._prompt = []  # a prefill that is cut short leaves nothing to reuse
        with self._timed("prefill_seconds"):
            self._logits = self._read(rows, kept)
        self._stats.prefill_tokens += sum(map(len, rows)) - kept
        self._stats.reused_tokens += kept
        if len(rows) == 1:
            self._prompt = rows[0]
        return self._logits

    @torch.inference_mode()
    def decode(self, token_ids: Tensor) -> Tensor:
        """One more token of every row: [B, 1] ids -> logits [B, vocab] behind it.

        Raises:
            ConfigError: nothing was prefilled, or the batch differs from the prefilled one.
        """
        rows = len(self.lengths)
        if self._logits is None or tuple(token_ids.shape) != (rows, 1):
            raise ConfigError(
                f"decode takes one token for each of the {rows} prefilled rows, [{rows}, 1]; found "
                f"{list(token_ids.shape)}. Call prefill with the prompts first."
            )
        self._logits = self._step(token_ids.flatten().tolist(), list(range(rows)))
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
        seed: int = 0,
    ) -> Tensor:
        """New tokens behind the prompts, greedy unless a temperature is given.

        Args:
            input_ids: [B, T] whole prompts; a single one reuses what it shares with the prompt
                before it (see `prefill`). None: continue behind the last prefill or decode.
            max_new_tokens: at least 1.
            attention_mask: as for `prefill`.
            stop_token_ids: end a row, besides the model's own end tokens.
            stop: called with the new tokens of a row after each; True ends the row.
            temperature: sample from softmax(logits / temperature), seeded by `seed`.

        Returns:
            int64 [B, <= max_new_tokens], the end token included, padded behind it.
        """
        if max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, found {max_new_tokens}.")
        if input_ids is not None:
            self.prefill(
                input_ids, attention_mask, reuse_prefix=reuse_prefix, max_new_tokens=max_new_tokens
            )
        if self._logits is None:
            raise ConfigError("nothing to continue: give input_ids, or call prefill first.")
        rule = StopRule.of(self.model, stop_token_ids, stop)
        pick = Sampler(temperature, seed)
        new: list[list[int]] = [[] for _ in self.lengths]
        logits, active = self._logits, list(range(len(new)))
        while True:
            tokens = pick(logits)
            for row, token in zip(active, tokens, strict=True):
                new[row].append(token)
            going = [i for i, row in enumerate(active) if not rule(new[row])]
            active = [active[i] for i in going]
            if not active or len(new[active[0]]) == max_new_tokens:
                break
            logits = self._step([tokens[i] for i in going], active)
        self._logits = None  # rows stopped at different tokens: there is no common next one
        return fill(new, rule.pad).to(self._device)

    @torch.inference_mode()
    def answer_nll(self, answer_ids: Sequence[int]) -> float:
        """Mean negative log-likelihood per token (nats) of an answer, teacher forced.

        For a single prefilled prompt; the session is afterwards as it was before.
        """
        if self._logits is None or len(self.lengths) != 1 or not answer_ids:
            raise ConfigError(
                "answer_nll scores a non-empty answer behind one prefilled prompt; call prefill "
                "with a single prompt first."
            )
        before, length = self._logits, self.lengths
        logits, total = before, 0.0
        for i, token in enumerate(answer_ids):
            total -= float(logits.double().log_softmax(-1)[0, token])
            if i + 1 < len(answer_ids):
                logits = self._step([token], [0])
        self._hook.rewind(length)
        self._logits = before
        return total / len(answer_ids)

    # -- inside ----------------------------------------------------------------------------------

    def _keep_prefix(self, rows: list[list[int]], max_new_tokens: int) -> int:
        """Go back to the last chunk boundary that the new prompt shares; tokens kept."""
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


def _unpadded(input_ids: Tensor, attention_mask: Tensor | None) -> list[list[int]]:
    """Token ids of every row without its left padding."""
    if input_ids.ndim != 2 or input_ids.numel() == 0:
        raise ConfigError(
            f"a prompt needs at least one token, input_ids [batch, tokens]; found shape "
            f"{list(input_ids.shape)}."
        )
    if attention_mask is None:
        return input_ids.tolist()
    mask = attention_mask.bool()
    if mask.shape != input_ids.shape:
        raise ConfigError(
            f"attention_mask {list(mask.shape)} must have the shape of input_ids "
            f"{list(input_ids.shape)}."
        )
    counts = mask.sum(1).tolist()
    width = mask.shape[1]
    for row, count in enumerate(counts):
        if count == 0 or not bool(mask[row, width - count :].all()):
            raise ConfigError(
                f"row {row} of the batch is empty or not padded on the left; tokenise with "
                'padding_side="left".'
            )
    return [ids[width - count :] for ids, count in zip(input_ids.tolist(), counts, strict=True)]

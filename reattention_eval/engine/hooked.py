"""Sessions of view methods: the hook answers every layer, prompts are read in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from reattention_eval.attention import Hook, LastApart, RowStep, last_part
from reattention_eval.attention.counts import Counts
from reattention_eval.cache import DEVICE
from reattention_eval.engine.decode_graph import RepeatedDecode
from reattention_eval.engine.forward_size import ForwardSize
from reattention_eval.engine.kernels_ahead import compile_kernels
from reattention_eval.engine.progress import OnProgress, Pace, prompt_progress
from reattention_eval.engine.read_counts import ReadCounts
from reattention_eval.engine.save_hooked import check_saved, load_hooked, save_hooked
from reattention_eval.engine.saved import SavedPrompt
from reattention_eval.engine.session import Session
from reattention_eval.engine.stats import SessionStats, peak_bytes
from reattention_eval.methods import ViewMethod
from reattention_eval.parallel import ranks_of
from reattention_kernels.causal import attention_of_device


class HookedSession(Session):
    """Every token's keys stay in the hook's cache."""

    method: ViewMethod

    def __init__(self, model: nn.Module, hook: Hook, method: ViewMethod) -> None:
        self._hook = hook
        self._last_stats: SessionStats | None = None
        self._read_counts = ReadCounts()
        self._ordinary: list[int] = []  # of each row to read: tokens before its last ones
        self._size = ForwardSize(model, method.chunk_size)
        ranks = ranks_of(model)
        self._kernels = compile_kernels(
            model.config, method, next(model.parameters()).dtype, ranks.size if ranks else 1,
            DEVICE if hook.tier is None else hook.tier.name,
        )  # fmt: skip
        super().__init__(model, method, hook.one_thread)
        self._repeats = RepeatedDecode(model, hook, method, self._device)

    @property
    def stats(self) -> SessionStats:
        """As said, `model.generate` too. As they were when the session was closed."""
        if self._last_stats is not None:
            return self._last_stats
        hook, own = self._hook, self._stats
        moved = hook.transferred()
        users, counts, decoded = hook.user, hook.counts(), hook.decode_counts()
        steps, decode_steps = counts.layer_steps, decoded.layer_steps
        return replace(
            own,
            layer_steps=steps,
            layer_steps_selected=counts.selected,
            mean_view=counts.view_tokens / steps if steps else 0.0,
            decode_view=decoded.view_tokens / decode_steps if decode_steps else 0.0,
            keys_kept=sum(self.lengths) / len(self.lengths) if self.lengths else 0.0,
            prefill_tokens=own.prefill_tokens + users.prefill_tokens,
            decode_tokens=own.decode_tokens + users.decode_tokens,
            prefill_seconds=own.prefill_seconds + users.prefill_seconds,
            decode_seconds=own.decode_seconds + users.decode_seconds,
            cache_bytes=sum(layer.nbytes for layer in hook.layers),
            cache_host_bytes=sum(layer.host_bytes for layer in hook.layers),
            bytes_to_host=moved.to_host,
            bytes_from_host=moved.from_host,
            values_asked=moved.asked,
            values_held=moved.held,
            peak_bytes=peak_bytes(self._device),
            attention=attention_of_device(self._device, next(self.model.parameters()).dtype),
        )

    @property
    def lengths(self) -> list[int]:
        return list(self._hook.layers[0].lengths)

    @property
    def reused(self) -> Counts:
        return self._read_counts.reused

    def reset_stats(self) -> None:
        self._hook.reset_counters()
        self._read_counts.reset()
        super().reset_stats()

    def close(self) -> None:
        try:
            self._last_stats = self._last_stats or self.stats
        finally:  # a device that has failed counts nothing, but its memory is given back
            super().close()
            self._repeats.close()
            self._hook.give_back()

    def check_selected(self) -> None:
        self._hook.check_selected()

    @contextmanager
    def watching_views(self) -> Iterator[Callable[[], list[list[int]]]]:
        """As said."""
        with self._hook.answers.views.watching() as views:
            yield lambda: views.spans(len(self._hook.layers))

    def _empty(self) -> None:
        self._hook.rewind([0] * len(self.lengths))

    def _start(self, rows: int, capacity: int) -> None:
        try:
            self._hook.start(rows, capacity)
        except BaseException:
            if not self._hook.whole:
                self._forget()
            raise

    def _reserve(self, capacity: int) -> None:
        self._hook.room.make_more(capacity)

    def _make_room(self, tokens: int) -> None:
        self._hook.room.make_some(max(self.lengths) + bool(self._unread) + tokens)

    def _expect(self, lengths: list[int]) -> None:
        self._hook.expect(lengths)

    def _plan(self, rows: list[list[int]], document: int | None) -> None:
        self._ordinary = [len(row) - last_part(self.method, len(row), document) for row in rows]

    def _begin(self, kept: int) -> None:
        self._read_counts.begin(kept)

    def _reusable(self, prompt: list[int]) -> list[int]:
        return prompt[: min(self.lengths[0], self._ordinary[0])]

    def _user_forwards(self) -> int:
        return self._hook.user.forwards

    def _save(self, folder: Path) -> None:
        assert self._logits is not None
        kept = SavedPrompt(self._prompt, self._prompt_length, self._logits)
        save_hooked(folder, kept, self.model, self._hook, self.method)

    def _load(self, folder: Path, room: int) -> SavedPrompt:
        about = check_saved(folder, self.model, self._hook, self.method)
        self._start(1, about["tokens"] + room)  # refused, all stays as it is
        self._forget()
        self._read_counts.begin(0)
        return load_hooked(folder, about, self._hook)

    @contextmanager
    def _returning(self) -> Iterator[None]:
        lengths = self.lengths
        try:
            yield
        finally:
            self._hook.rewind(lengths)

    def _keep_prefix(self, rows: list[list[int]], max_new_tokens: int) -> int:
        """Go back to the last chunk boundary that the new prompt shares; tokens kept."""
        self._count_users()
        if len(rows) != 1 or not self._prompt:
            return 0
        new, old = rows[0], self._prompt
        if not self._hook.same_rope(len(new), self._prompt_length):
            return 0
        # the last token is always computed: for its logits
        limit = min(len(new) - 1, len(old), self._ordinary[0])
        shared = next((i for i in range(limit) if new[i] != old[i]), limit)
        shared -= shared % self.method.chunk_size
        if shared:
            self._hook.room.make_more(len(new) + max_new_tokens)  # refused, all stays as it is
            self._hook.rewind([shared])
        return shared

    def _read(self, rows: list[list[int]], done: int, progress: OnProgress | None) -> Tensor:
        longest = max(map(len, rows))
        if self._kernels is not None and self.method.selects(max(self.lengths) + longest):
            self._kernels.wait()  # or both would compile the same
        cut = list(zip(rows, self._ordinary, strict=True))
        parts = [row[:end] for row, end in cut], [row[end:] for row, end in cut]
        logits: dict[int, Tensor] = {}
        most = self._size.choose(len(rows))
        pace, shown = Pace(self._device), longest - done if progress is None else 0
        with prompt_progress(shown, most) as advance:
            for some, start, apart in ((parts[0], done, False), (parts[1], 0, True)):
                for last, tokens in self._read_rows(some, start, most, apart):
                    logits.update(last)
                    advance(tokens)
                    if progress is None:
                        continue
                    pace.step()
                    if progress(self.lengths[0]):
                        self._hook.rows.end_reading()
                        return torch.stack([logits[0]])
        return torch.stack([logits[row] for row in range(len(rows))])

    def _read_rows(
        self, rows: list[list[int]], start: int, most: int, apart: bool
    ) -> Iterator[tuple[dict[int, Tensor], int]]:
        """Forward by forward, from token `start` of each row on: logits behind what it carried of a
        row, by row, and its tokens.

        most: tokens of a row that a forward carries where chunks are ordinary.
        apart: these are the last tokens of prompts, with chunks of their own size.
        """
        chunk, longest = self.method.chunk_size, max(map(len, rows))
        if start >= longest:
            return
        if apart and isinstance(self.method, LastApart):  # as many chunks
            most = most // chunk * self.method.last_chunk_size
            chunk = self.method.last_chunk_size
        while start < longest:
            active = [row for row, ids in enumerate(rows) if len(ids) > start]
            # a row that ends stays in no forward that goes on for others
            ending = min(len(rows[row]) for row in active) - start
            tokens = min(most, -(-ending // chunk) * chunk)
            parts = [rows[row][start : start + tokens] for row in active]
            last = self._read_parts(parts, active, chunk, apart, tokens > chunk)
            if last is None:
                self._size.shrink()
                most = chunk
                continue
            start += tokens
            self._stats.forward_tokens = max(self._stats.forward_tokens, tokens)
            yield dict(zip(active, last, strict=True)), max(map(len, parts))

    def _read_parts(
        self, parts: list[list[int]], rows: list[int], chunk: int, apart: bool, can_be_less: bool
    ) -> Tensor | None:
        """Logits at the ends of a prompt's next parts; None where fewer tokens are to be tried,
        since the memory was too little: then nothing has been read."""
        lengths, before = self.lengths, self._hook.counts()
        try:
            logits = self._forward(parts, rows, apart)
        except torch.OutOfMemoryError:
            if not can_be_less or not self._size.can_shrink:
                raise
            self._hook.take_back(lengths, before)
            return None
        if len(lengths) == 1:
            read = len(parts[0])
            ends = [lengths[0] + min(done + chunk, read) for done in range(0, read, chunk)]
            self._read_counts.read(ends, before, self._hook.counts())
        return logits

    def _read_all(self, tokens: list[int]) -> Iterator[Tensor]:
        for start in range(0, len(tokens), self.method.chunk_size):
            part = tokens[start : start + self.method.chunk_size]
            ids = torch.tensor([part], device=self._device)
            with self._hook.drive([RowStep(0, 0, len(part))]):
                logits = self.model(input_ids=ids, logits_to_keep=0).logits[0]
            yield logits

    def _next(self, tokens: list[int], rows: list[int]) -> Tensor:
        logits = self._repeats(tokens) if len(self.lengths) == 1 else None
        if logits is None:
            logits = self._forward([[token] for token in tokens], rows)
        return logits

    def _forward(self, parts: list[list[int]], rows: list[int], apart: bool = False) -> Tensor:
        """The model over a part of each of `rows`: logits [rows, vocab] at their ends.

        apart: as for `_read_rows`.
        """
        width = max(map(len, parts))
        ids = torch.tensor([part + [0] * (width - len(part)) for part in parts])
        ends = torch.tensor([len(part) - 1 for part in parts])
        wanted, index = ends.unique(return_inverse=True)
        together = len(wanted) == 1
        steps = zip(rows, map(len, parts), strict=True)
        # not waiting for what the device still does, so that it never runs out of work;
        # a list, not a tensor: the last layer may lie on another GPU than the ids
        with self._hook.drive([RowStep(row, 0, n, n if apart else 0) for row, n in steps]):
            logits = self.model(
                input_ids=ids.to(self._device, non_blocking=True),
                logits_to_keep=1 if together else wanted.tolist(),
            ).logits  # [rows, wanted, vocab]
        return logits[:, 0] if together else logits[torch.arange(len(parts)), index]

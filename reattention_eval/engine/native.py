"""Sessions of native methods: the model's own attention on transformers' own cache."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from reattention_eval.attention.refusals import check_dropouts, dropouts
from reattention_eval.cache_argument import with_cache
from reattention_eval.engine.progress import OnProgress
from reattention_eval.engine.session import Session
from reattention_eval.engine.stats import SessionStats, peak_bytes
from reattention_eval.errors import ConfigError, SelectionError
from reattention_eval.machine_memory import GIB, free_bytes
from reattention_eval.methods import NativeMethod, PromptReader


class NativeSession(Session):
    """A prompt is one forward; rows of a batch are padded on the left, positions are given.

    A method may drop keys from the cache after any forward. What then stands in a column of the
    cache is no longer known, so that nothing in it can be masked: rows of one length alone make a
    batch, and rows that ended early cannot be continued. A turn behind dropped keys is read token
    by token: layers may hold unequally many, and may drop again; at once, where a `PromptReader`
    drops once, its layers hold equally many and mask none of them.

    A layer-step is one layer carrying one row through one forward. Those are counted whose layers
    attend to all of their cache, not within a sliding window.
    """

    method: NativeMethod

    def __init__(
        self, model: nn.Module, method: NativeMethod, reader: PromptReader | None = None
    ) -> None:
        super().__init__(model, method)
        self._reader, self._dropouts = reader, dropouts(model)
        self._document: int | None = None
        self._start(0, 0)

    @property
    def stats(self) -> SessionStats:
        steps = self._layer_steps
        return replace(
            self._stats,
            layer_steps=steps,
            layer_steps_selected=self._partial,
            mean_view=self._attended / steps if steps else 0.0,
            decode_view=self._decoded / self._decode_steps if self._decode_steps else 0.0,
            keys_kept=self._held(),
            cache_bytes=sum(part.numel() * part.element_size() for part in self._stored()),
            peak_bytes=peak_bytes(self._device),
        )

    @property
    def lengths(self) -> list[int]:
        return list(self._lengths)

    def reset_stats(self) -> None:
        super().reset_stats()
        self._layer_steps = self._partial = self._attended = self._expected = self._kept_part = 0
        self._decoded = self._decode_steps = 0

    def check_selected(self) -> None:
        if self._kept_part < self._expected:
            raise SelectionError(
                f"{self._expected} layer-steps had to leave a part of the keys in the cache and "
                f"{self._kept_part} did: what was computed is not {self.method.name}. Check that "
                "its `applied` reaches every layer of this model."
            )

    def close(self) -> None:
        super().close()
        self._start(0, 0)

    def _empty(self) -> None:
        self._start(len(self._lengths), 0)

    def _start(self, rows: int, capacity: int) -> None:
        self._cache = DynamicCache(config=self.model.config)  # type: ignore[arg-type]
        self._lengths = [0] * rows
        self._real = torch.ones(rows, 0, dtype=torch.bool)  # columns of the cache that are tokens
        self._lost_rows = False

    @contextmanager
    def _returning(self) -> Iterator[None]:
        before = self._cache, list(self._lengths), self._real, self._lost_rows
        self._cache = copy.deepcopy(self._cache)
        try:
            yield
        finally:
            self._cache, self._lengths, self._real, self._lost_rows = before

    def _user_forwards(self) -> int:
        return 0 if self._reader is None else self._reader.others

    def _plan(self, rows: list[list[int]], document: int | None) -> None:
        self._document = document

    def _read(self, rows: list[list[int]], done: int, progress: OnProgress | None) -> Tensor:
        sizes, document = [max(map(len, rows))], self._document
        if self._reader is not None:
            sizes = self._reader.forwards(self._lengths, [len(row) for row in rows], document)
            self._require_room(sizes)
        at = 0
        for size in sizes:
            logits = self._read_part([row[at : at + size] for row in rows])
            at += size
            if progress is not None and progress(self._lengths[0]):
                break
        return logits

    def _read_part(self, rows: list[list[int]]) -> Tensor:
        even = self._reader is not None and len(set(self._kept())) == 1
        if (even or not self._dropped()) and not any(self._masked()):
            return self._forward(rows)
        self._require_all_rows()
        if len(set(map(len, rows))) > 1:
            raise ConfigError(
                f"{self.method.name} has dropped keys, so turns of different length cannot be read "
                "as one batch; attach to one row at a time."
            )
        for tokens in zip(*rows, strict=True):
            logits = self._forward([[token] for token in tokens])
        return logits

    def _require_room(self, sizes: list[int]) -> None:
        """Before a forward that a CPU would be killed in."""
        assert self._reader is not None
        tokens = max(sizes)
        needed = self._reader.forward_bytes(tokens)
        free = free_bytes(self._device)
        if needed and free is not None and needed > free:
            raise ConfigError(
                f"{self.method.name} computes the attention of each layer as a whole: "
                f"{needed / GIB:.1f} GiB for {tokens:,} tokens, and {free / GIB:.1f} are free; "
                "give it shorter prompts, or more memory."
            )

    def _next(self, tokens: list[int], rows: list[int]) -> Tensor:
        padding = getattr(self.model.config, "pad_token_id", None) or 0
        parts: list[list[int]] = [[padding] for _ in self._lengths]
        for row, token in zip(rows, tokens, strict=True):
            parts[row] = [token]
        if len(rows) == len(parts):
            self._require_all_rows()
        attended, steps = self._attended, self._layer_steps
        logits = self._forward(parts, set(range(len(parts))) - set(rows))[rows]
        self._decoded += self._attended - attended
        self._decode_steps += self._layer_steps - steps
        return logits

    def _require_all_rows(self) -> None:
        if self._lost_rows:
            raise ConfigError(
                f"{self.method.name} drops keys, and a row that ended before the others cannot be "
                "continued; read its prompt again, or run one row at a time."
            )

    def _forward(self, parts: list[list[int]], ended: set[int] = frozenset()) -> Tensor:  # type: ignore[assignment]
        """Tokens of each row behind what it holds: logits [B, vocab]; rows in `ended` are fed
        padding that they do not hold."""
        width = max(map(len, parts))
        ids = torch.tensor([[0] * (width - len(part)) + part for part in parts])
        real = torch.tensor([[0] * (width - len(part)) + [1] * len(part) for part in parts]).bool()
        start = torch.tensor(self._lengths)[:, None]
        positions = (start + real.cumsum(1) - 1).clamp(min=0)
        dropped = self._dropped()
        if ended:
            real[list(ended)] = dropped  # behind dropped keys no column can be masked
            self._lost_rows |= dropped
        columns = torch.cat((self._real, real), 1)
        if dropped and not bool(columns.all()):
            raise ConfigError(
                f"{self.method.name} drops keys from the cache, so it cannot read rows of "
                "different length as one batch (padding could no longer be told from keys); use "
                "batch_size=1."
            )
        self._require_windows(columns, real)
        check_dropouts(self._dropouts, type(self.model).__name__)
        before = [keys - masked for keys, masked in zip(self._kept(), self._masked(), strict=True)]
        logits = self.model(
            input_ids=ids.to(self._device),
            position_ids=positions.to(self._device),
            attention_mask=None if bool(columns.all()) else columns.long().to(self._device),
            use_cache=True,
            logits_to_keep=1,
            **with_cache(self.model, {}, self._cache),
        ).logits
        self._real = columns
        going = [row for row in range(len(parts)) if row not in ended]
        for row in going:
            self._lengths[row] += len(parts[row])
            self._count(row, before, width)
        return logits[:, -1]

    def _require_windows(self, columns: Tensor, real: Tensor) -> None:
        """A sliding window is counted in columns: none of a row that goes on may be a gap."""
        if not any(getattr(layer, "is_sliding", False) for layer in self._cache.layers):
            return
        begun = columns.cumsum(1) > 0
        going = real.any(1)
        if bool((begun & ~columns)[going].any()):
            raise ConfigError(
                f"{self.method.name} leaves this model its sliding windows, in which padding "
                "behind a row's first tokens would take the place of tokens; read turns of one "
                "length, or one row at a time."
            )

    def _read_all(self, tokens: list[int]) -> Iterator[Tensor]:
        if self._reader is not None and self.method.selects(len(tokens)):
            raise ConfigError(
                f"{self.method.name} reads a prompt with full attention and drops keys behind it, "
                "so that the likelihood of a text would be full attention's; score an answer "
                "behind a prompt (answer_nll), or the text under another method."
            )
        check_dropouts(self._dropouts, type(self.model).__name__)
        ids = torch.tensor([tokens], device=self._device)
        yield self.model(
            **with_cache(self.model, {"input_ids": ids, "use_cache": True}, self._cache)
        ).logits[0]

    # -- what is in the cache ----------------------------------------------------------------------

    def _layers(self) -> list[object]:
        return [layer for layer in self._cache.layers if not getattr(layer, "is_sliding", False)]

    def _kept(self) -> list[int]:
        """Keys that each layer holds of a row, padding included."""
        keys = [getattr(layer, "keys", None) for layer in self._layers()]
        return [0 if key is None or not key.numel() else key.shape[-2] for key in keys]

    def _held(self) -> float:
        """Keys that a layer holds of a row, padding not included, on average."""
        padding = (~self._real).sum(1).tolist()
        held = [
            min(kept - pad, length)
            for kept in self._kept()
            for pad, length in zip(padding, self._lengths, strict=True)
        ]
        return sum(held) / len(held) if held else 0.0

    def _dropped(self) -> bool:
        return any(kept != self._real.shape[1] for kept in self._kept())

    def _masked(self) -> list[float]:
        """Keys that each layer holds and nothing attends to."""
        return [0.0] * len(self._kept()) if self._reader is None else self._reader.masked()

    def _stored(self) -> list[Tensor]:
        parts = [getattr(x, name, None) for x in self._cache.layers for name in ("keys", "values")]
        return [part for part in parts if part is not None]

    def _count(self, row: int, before: list[float], new: int) -> None:
        length, after = self._lengths[row], self._kept()
        before = before or [0.0] * len(after)  # the first forward makes the layers
        padding = int((~self._real[row]).sum())
        attended = [keys + new - padding for keys in before]
        held = zip(after, self._masked(), strict=True)
        kept = [min(keys - masked - padding, length) for keys, masked in held]
        self._layer_steps += len(after)
        self._attended += round(sum(attended))
        self._partial += sum(keys < length for keys in attended)
        if self._must_drop(length):
            self._expected += len(after)
            self._kept_part += sum(keys < length for keys in kept)

    def _must_drop(self, length: int) -> bool:
        if self._reader is not None:
            return self._reader.compresses
        return self.method.selects(length)

"""ReAttention: positions picked by un-rotated similarity, attended at renumbered places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.errors import ConfigError
from reattention_eval.methods.base import BEYOND, MOST, ViewMethod
from reattention_eval.methods.compiled import CallsKernels
from reattention_eval.methods.repeats import ANY_LENGTH, Repeats
from reattention_eval.methods.vote_rules import VoteRules

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import Selection
    from reattention_eval.cache import RowCache

NORMS = {"qkv_l1": 1, "qkv_l2": 2}
DOCUMENT = "document"
QUESTION_TOKENS = 48  # about what stands behind a document: kernels are compiled for so many


@dataclass(frozen=True)
class ReAttention(ViewMethod, VoteRules, Repeats, CallsKernels):
    """Global tokens, selected spans, local tokens (arXiv 2407.15176, section 3).

    While the cache fits into the scope, exactly full attention. Beyond it every query of a chunk
    names, per head, the top_k keys of the middle with the largest un-rotated q.k; the max_spans
    positions named most often bring their spans into the view.

    Args:
        global_size: first tokens, always attended.
        local_size: last tokens, always attended; at least chunk_size.
        span_size: tokens around a kept position, span_size // 2 of them before it.
        top_k: keys named per query and head.
        max_spans: positions kept per layer and chunk (the paper's k').
        selection: "exact", or "block_max": the released approximation.
        select_from: "scope" (beyond the scope) or "local" (beyond global + local, as released).
        score: "qk", or "qkv_l1" / "qkv_l2": keys scaled by the norm of their values.
        allow_beyond_window: permit a scope larger than the model's trained window.
        last_tokens: so many tokens at the end of every prompt and turn are a chunk of their own (of
            more than chunk_size, several), so that a question is not outvoted by what stands before
            it; "document": those behind the prompt's document. None, as in the paper: they share
            the last chunk.
        last_alone: those tokens as chunks of one, as new tokens are.

    Besides, none of them in the paper: the settings of `VoteRules`.
    """

    name: ClassVar[str] = "reattention"
    source: ClassVar[str] = "Liu et al., ICLR 2025, arXiv 2407.15176"
    family: ClassVar[str] = BEYOND
    budget_meaning: ClassVar[str] = "global_size + local_size + max_spans x span_size"
    global_size: int = 32
    local_size: int = 4096
    span_size: int = 32
    top_k: int = 4
    max_spans: int = 127
    selection: str = "exact"
    select_from: str = "scope"
    score: str = "qk"
    allow_beyond_window: bool = False
    last_tokens: int | str | None = field(default=None, metadata={"later": True})
    last_alone: bool = field(default=False, metadata={"later": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("global_size", 0), ("span_size", 1), ("top_k", 1), ("max_spans", 1)):
            value = getattr(self, name)
            self.require(value >= least, f"{name} must be at least {least}, found {value}")
        self.require(
            self.chunk_size <= self.local_size,
            f"chunk_size {self.chunk_size} must fit into local_size {self.local_size}, or a chunk "
            "could not see itself; lower chunk_size, raise local_size, or leave the sizes to "
            "budget_tokens",
        )
        choices = {
            "selection": ("exact", "block_max"),
            "select_from": ("scope", "local"),
            "score": ("qk", *NORMS),
        }
        for name, values in choices.items():
            value = getattr(self, name)
            self.require(
                value in values, f"unknown {name} {value!r}; there are: {', '.join(values)}"
            )
        self.check_votes()
        last = self.last_tokens
        self.require(
            last in (None, DOCUMENT) or (type(last) is int and 1 <= last <= MOST),
            f"last_tokens must be a number of tokens from 1 to {MOST}, {DOCUMENT!r} (those behind "
            f"the prompt's document) or None, found {last!r:.80}",
        )
        self.require(
            last is not None or not self.last_alone,
            f"last_alone says how last_tokens are read; give these, as last_tokens={DOCUMENT!r}",
        )

    @property
    def budget(self) -> int:
        """With layer_slope in the mean over layers."""
        return self.global_size + self.local_size + self.max_spans * self.span_size

    @classmethod
    def budget_settings(cls, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        """As the paper's scopes of 8,192 and 16,416: half is local, in whole chunks, and the spans
        take the rest; what is too short for a span is local too."""
        return cls._sized(tokens, given, 2)

    @classmethod
    def _sized(cls, tokens: int, given: Mapping[str, Any], part: int) -> dict[str, Any]:
        """A scope of so many tokens, one of `part` parts of it local."""
        first = cls.given_or_default(given, "global_size", 0)
        span = cls.given_or_default(given, "span_size", 1)
        chunk = cls.given_or_default(given, "chunk_size", 1)
        local = max(chunk, tokens // part // chunk * chunk)
        spans, rest = divmod(tokens - first - local, span)
        cls.require(
            spans >= 1,
            f"budget_tokens {tokens} leaves no span of {span} tokens beside global_size {first} "
            f"and a local_size of {local}; raise it, or lower chunk_size {chunk} or global_size",
        )
        return {"local_size": local + rest, "max_spans": spans}

    @property
    def whole_until(self) -> int:
        return self._fixed if self.select_from == "local" else self.budget

    @property
    def first_tokens(self) -> int:
        return self.global_size

    @property
    def fetched_keys(self) -> int | None:
        return None if self.per_kv_head else self._fixed + self.widest_spans * self.span_size

    @property
    def _fixed(self) -> int:
        return self.global_size + self.local_size

    def view(self, row: RowCache, query: Tensor) -> Selection:
        return self.views(row, query[None])

    def views(self, row: RowCache, query: Tensor) -> Selection:
        """Of C chunks: query [C, H, T, D] (`reattention_eval.attention.ViewsTogether`)."""
        from reattention_eval.attention import Selection

        first, last = self.global_size, row.capacity - self.local_size
        spans, count = self.chosen_spans(
            row, query, self._scored_keys(row, first, last), last - first, self._fixed
        )
        return Selection(spans, count, self.global_size, self.local_size)

    @property
    def needs_document_end(self) -> bool:
        return self.last_tokens == DOCUMENT

    @property
    def last_chunk_size(self) -> int:
        return 1 if self.last_alone else self.chunk_size

    def last_part(self, tokens: int, document: int | None) -> int:
        """See `reattention_eval.attention.LastApart`."""
        if isinstance(self.last_tokens, int):
            return min(self.last_tokens, tokens)
        if self.last_tokens is None:
            return 0
        if document is None:
            raise ConfigError(
                f"{self.name}: with last_tokens={DOCUMENT!r} a prompt must say where its document "
                "ends, and this one does not: give prefill or generate document_tokens, one prompt "
                "at a time (rows of a dataset: their `question`, and batch_size=1), or make "
                "last_tokens a number."
            )
        return tokens - document

    def kernel_settings(self) -> dict[str, Any]:
        last = QUESTION_TOKENS if self.last_tokens == DOCUMENT else self.last_tokens
        if self.last_alone or not isinstance(last, int):
            last = 0  # chunks of one are always compiled
        return {
            "chunk_sizes": tuple(
                dict.fromkeys((self.chunk_size, last % self.chunk_size or self.chunk_size))
            ),
            "top_k": self.asked_keys,
            "max_spans": self.max_spans,
            "span_size": self.span_size,
            "global_size": self.global_size,
            "local_size": self.local_size,
            "mode": self.selection,
            "weighted": self.votes != "count",
            "vote_memory": self.vote_memory,
            "grid": self.span_grid,
            "per_kv_head": self.per_kv_head,
        }

    def fixed_view(self, length: int) -> int:
        return self._fixed if self.selects(length) else length

    def repeats_until(self, length: int) -> int:
        if not self.selects(length):
            return self.whole_until
        return ANY_LENGTH if self.score == "qk" and not self.vote_memory else 0

    def _scored_keys(self, row: RowCache, first: int, last: int) -> Tensor:
        """Keys of the middle [Hkv, M, D], scaled where the score asks for it."""
        key = row.key[:, first:last]
        if self.score == "qk":
            return key
        import torch

        norm = torch.linalg.vector_norm(
            row.value[:, first:last], ord=NORMS[self.score], dim=-1, keepdim=True
        )
        return key * norm

    def check(self, context_length: int) -> None:
        widest = self.widest_spans
        scope = self.budget + (widest - self.max_spans) * self.span_size
        self.require(
            self.allow_beyond_window or scope <= context_length,
            f"the scope of {scope} tokens is larger than the model's trained window of "
            f"{context_length}; lower local_size or max_spans so that {self.global_size} + "
            f"{self.local_size} + {widest} x {self.span_size} <= {context_length}, leave them to "
            f"budget_tokens of at most {context_length}, or set allow_beyond_window=True",
        )

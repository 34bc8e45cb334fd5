"""StreamingLLM: attention sink plus sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.methods.base import BEYOND, ViewMethod
from reattention_eval.methods.repeats import ANY_LENGTH, Repeats

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import Selection
    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class StreamingLLM(ViewMethod, Repeats):
    """The first `sink_size` and the last `window_size` tokens, renumbered inside the view.

    Xiao et al., 2024, arXiv 2309.17453, section 3.2.
    """

    name: ClassVar[str] = "streaming_llm"
    source: ClassVar[str] = "Xiao et al., 2024, arXiv 2309.17453"
    family: ClassVar[str] = BEYOND
    budget_meaning: ClassVar[str] = "sink_size + window_size"
    sink_size: int = 32
    window_size: int = 8160
    allow_beyond_window: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(self.sink_size >= 0, f"sink_size must not be negative, found {self.sink_size}")
        self.require(
            self.chunk_size <= self.window_size,
            f"chunk_size {self.chunk_size} must fit into window_size {self.window_size}, or a "
            "chunk could not see itself; lower chunk_size or raise window_size",
        )

    @property
    def budget(self) -> int:
        return self.sink_size + self.window_size

    @classmethod
    def budget_settings(cls, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        first = cls.given_or_default(given, "sink_size", 0)
        chunk = cls.given_or_default(given, "chunk_size", 1)
        cls.require(
            tokens - first >= chunk,
            f"budget_tokens {tokens} leaves less than a chunk of {chunk} tokens beside sink_size "
            f"{first}; raise it, or lower chunk_size or sink_size",
        )
        return {"window_size": tokens - first}

    @property
    def first_tokens(self) -> int:
        return self.sink_size

    def repeats_until(self, length: int) -> int:
        return ANY_LENGTH if self.selects(length) else self.budget

    def fixed_view(self, length: int) -> int:
        return min(length, self.budget)

    def view(self, row: RowCache, query: Tensor) -> Selection:
        return self.views(row, query[None])

    def views(self, row: RowCache, query: Tensor) -> Selection:
        """Of C chunks: query [C, H, T, D] (`reattention_eval.attention.ViewsTogether`)."""
        import torch

        from reattention_eval.attention import Selection

        chunks = len(query)
        nothing = torch.empty(chunks, 0, dtype=torch.int32, device=query.device)
        count = torch.zeros(chunks, dtype=torch.int32, device=query.device)
        return Selection(nothing, count, self.sink_size, self.window_size)

    def check(self, context_length: int) -> None:
        self.require(
            self.allow_beyond_window or self.budget <= context_length,
            f"sink_size {self.sink_size} + window_size {self.window_size} = {self.budget} tokens "
            f"is larger than the model's trained window of {context_length}; lower window_size to "
            f"at most {context_length - self.sink_size}, or set allow_beyond_window=True",
        )

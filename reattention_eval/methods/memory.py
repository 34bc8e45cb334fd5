"""What a method says of the memory it takes, for plans made before anything is loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod

from reattention_eval.methods.base import Method, ViewMethod


class KeepsIndex(ABC):
    """Inherited by a method that keeps more than the keys and values of the cache."""

    @abstractmethod
    def index_bytes(self, tokens: int, head_dim: int) -> int:
        """Bytes kept beside the keys of one KV head, for a cache of `tokens` tokens."""


class KeepsScores(ABC):
    """Inherited by a method that may compute a forward's whole attention, every token's to every
    other."""

    @abstractmethod
    def score_bytes(self, tokens: int, heads: int, itemsize: int) -> int:
        """Bytes that takes of a layer, for a forward of `tokens` tokens; 0 where it does not."""


def score_bytes(method: Method, tokens: int, heads: int, itemsize: int) -> int:
    """See `KeepsScores.score_bytes`; 0 for a method that never does."""
    if not isinstance(method, KeepsScores):
        return 0
    return method.score_bytes(tokens, heads, itemsize)


def index_bytes(method: Method, tokens: int, head_dim: int) -> int:
    """See `KeepsIndex.index_bytes`; 0 for a method that keeps none."""
    return method.index_bytes(tokens, head_dim) if isinstance(method, KeepsIndex) else 0


def forward_tokens(method: Method, tokens: int) -> int:
    """Tokens that one forward of a prompt of `tokens` tokens carries at least: where memory is
    short, no more (`forward_size`)."""
    return min(method.chunk_size, tokens) if isinstance(method, ViewMethod) else tokens


def gathers(method: Method) -> bool:
    """Whether views are copied out of the cache; others read it where it lies."""
    return isinstance(method, ViewMethod) and method.renumbers and method.whole_until is not None

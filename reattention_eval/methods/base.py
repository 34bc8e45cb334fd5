"""What every method says of itself; what it does is in its own file."""

from __future__ import annotations

import dataclasses
import sys
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from reattention_eval.attention import Selection
from reattention_eval.cache import RowCache
from reattention_eval.errors import ConfigError

KINDS: dict[str, tuple[type, str]] = {
    "int": (int, "a whole number"),
    "bool": (bool, "True or False"),
    "str": (str, "a word in quotes"),
}
MOST = 2**31 - 1  # positions are counted in 32 bits


@dataclasses.dataclass(frozen=True)
class Method(ABC):
    """A view method (`reattention_eval.attention.ViewPolicy`): settings are its fields.

    Class attributes: `name`, the key in configurations; `source`, where it was published.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    ANY_LENGTH: ClassVar[int] = sys.maxsize
    chunk_size: int = dataclasses.field(
        default=512, kw_only=True, metadata={"help": "prompt tokens answered together"}
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            self._check_kind(field.name, str(field.type))
        self.require(self.chunk_size >= 1, f"chunk_size must be >= 1, found {self.chunk_size}")

    def _check_kind(self, name: str, kind: str) -> None:
        """A setting's type, as its field is annotated; True is not taken for 1."""
        value, expected = getattr(self, name), KINDS.get(kind)
        if expected is None:
            return
        right = type(value) is expected[0]
        self.require(right, f"{name} must be {expected[1]}, found {value!r:.80}")
        self.require(
            kind != "int" or abs(value) <= MOST,
            f"{name} must be at most {MOST}, found {value!r:.80}",
        )

    @property
    def renumbers(self) -> bool:
        return True

    @property
    @abstractmethod
    def budget(self) -> int | None:
        """Keys a query attends to at most; None for the whole cache."""

    def repeats_until(self, length: int) -> int:
        """Tokens up to which decode steps, with a cache of `length` tokens and more, are one and
        the same work that a CUDA graph may repeat; 0 where they are not."""
        return 0

    def index_bytes(self, tokens: int, head_dim: int) -> int:
        """Bytes kept beside the keys of one KV head, for a cache of `tokens` tokens."""
        return 0

    def fixed_view(self, length: int) -> int:
        """Keys of a repeated step's view, of a cache of `length` tokens, besides those that the
        device counts."""
        return 0

    @abstractmethod
    def view(self, row: RowCache, query: Tensor) -> Tensor | Selection | None:
        """See `reattention_eval.attention.ViewPolicy.view`."""

    @property
    def whole_until(self) -> int | None:
        """Tokens of the largest cache that is attended as a whole; None for any."""
        return self.budget

    def selects(self, length: int) -> bool:
        """Whether a cache of `length` tokens must be answered by a part of it."""
        return self.whole_until is not None and length > self.whole_until

    def check(self, window: int) -> None:  # noqa: B027  (most methods fit any model)
        """Raise ConfigError where the method cannot serve a model trained to `window` tokens."""

    def settings(self) -> dict[str, Any]:
        """Every field that, with the method's name, defines its predictions."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if not field.metadata.get("same_predictions")
        }

    def require(self, condition: bool, problem: str) -> None:
        """Raise ConfigError with `problem` unless the condition holds."""
        if not condition:
            raise ConfigError(f"{self.name}: {problem}.")

"""How a native method wants a prompt read, where that is not all rows in one forward."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class PromptReader(ABC):
    """Yielded by `NativeMethod.applied`: asked by the session of that block.

    others: prompts that the user's own forwards brought; what is kept of a prompt beside the cache
    is then theirs.
    """

    others = 0

    @abstractmethod
    def forwards(
        self, held: Sequence[int], lengths: Sequence[int], document: int | None
    ) -> list[int]:
        """Tokens of each forward that reads what comes next; the first forward comes right behind.

        Args:
            held: tokens that each row has read.
            lengths: tokens that are now read behind them.
            document: of the only row, the tokens that its question stands behind, where known.

        Raises:
            ConfigError: the method cannot read this.
        """

    @property
    @abstractmethod
    def compresses(self) -> bool:
        """Whether of the prompt that was read last a part of the keys has to be gone."""

    @abstractmethod
    def masked(self) -> list[float]:
        """Keys of each layer's cache that nothing attends to any more, a mean over KV heads."""

    def forward_bytes(self, tokens: int) -> int:
        """Bytes that a forward of so many tokens takes beyond what the model's own takes."""
        return 0

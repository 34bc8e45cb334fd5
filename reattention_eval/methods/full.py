"""Full attention, the reference every other method is set beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from reattention_eval.cache import RowCache
from reattention_eval.methods.base import Method


@dataclass(frozen=True)
class FullAttention(Method):
    """Every query attends to every token before it, at its original position."""

    name: ClassVar[str] = "full"
    source: ClassVar[str] = "Vaswani et al., 2017, arXiv 1706.03762"

    @property
    def renumbers(self) -> bool:
        return False

    @property
    def budget(self) -> None:
        return None

    def repeats_until(self, length: int) -> int:
        return self.ANY_LENGTH

    def fixed_view(self, length: int) -> int:
        return length

    def view(self, row: RowCache, query: Tensor) -> None:
        return None

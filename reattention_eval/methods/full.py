"""Full attention, the reference every other method is set beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NoReturn

from reattention_eval.methods.base import FULL, ViewMethod
from reattention_eval.methods.repeats import ANY_LENGTH, Repeats

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class FullAttention(ViewMethod, Repeats):
    """Every query attends to every token before it, at its original position."""

    name: ClassVar[str] = "full"
    source: ClassVar[str] = "Vaswani et al., 2017, arXiv 1706.03762"
    family: ClassVar[str] = FULL

    @property
    def renumbers(self) -> bool:
        return False

    @property
    def budget(self) -> None:
        return None

    def repeats_until(self, length: int) -> int:
        return ANY_LENGTH

    def fixed_view(self, length: int) -> int:
        return length

    def view(self, row: RowCache, query: Tensor) -> NoReturn:
        raise AssertionError("full attention never selects, so it is never asked for a view")

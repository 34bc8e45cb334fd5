"""The model as it is: its own attention, its own cache, whatever becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reattention_eval.methods.base import FULL, NativeMethod


@dataclass(frozen=True)
class NativeFull(NativeMethod):
    """Full attention as transformers computes it; what the hook's `full` is compared with."""

    name: ClassVar[str] = "native_full"
    source: ClassVar[str] = "Vaswani et al., 2017, arXiv 1706.03762"
    family: ClassVar[str] = FULL

    @property
    def budget(self) -> None:
        return None

    def reach(self, window: int) -> int:
        return window

"""SelfExtend: near tokens at their own distances, distant ones counted in groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.methods.base import BEYOND, ViewMethod

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import BandedView
    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class SelfExtend(ViewMethod):
    """Every query attends to every token before it; those `window_size` and further away are
    counted in groups.

    Jin et al., 2024, arXiv 2401.01325, section 3.2 and algorithm 1: query i counts key j at the
    distance i - j where that is below window_size, and elsewhere at i // G - j // G + window_size
    - window_size // G, with G the group_size. No budget: the whole cache is attended.

    Args:
        group_size: tokens that share a place beyond the window (the paper's G_s).
        window_size: tokens at their own distances, the query included (the paper's w_n).
    """

    name: ClassVar[str] = "self_extend"
    source: ClassVar[str] = "Jin et al., ICML 2024, arXiv 2401.01325"
    family: ClassVar[str] = BEYOND
    group_size: int = 8
    window_size: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("group_size", "window_size"):
            value = getattr(self, name)
            self.require(value >= 1, f"{name} must be at least 1, found {value}")

    @property
    def budget(self) -> None:
        return None

    @property
    def whole_until(self) -> int:
        return self.window_size

    def reach(self, window: int) -> int:
        """Tokens of which the most distant is counted below `window`: where the groups divide
        window_size, (window - window_size) * group_size + window_size."""
        return (window - self._shift) * self.group_size

    @property
    def _shift(self) -> int:
        return self.window_size - self.window_size // self.group_size

    def view(self, row: RowCache, query: Tensor) -> BandedView:
        import torch

        from reattention_eval.attention import Band, BandedView, last_tokens

        n, t, near, group = row.length, query.shape[1], self.window_size, self.group_size
        at = torch.arange(n - t, n, device=query.device)
        last = last_tokens(row, at, near)
        distant = torch.arange(n - near, device=query.device)
        of_groups = distant // group, at // group + self._shift
        bands = last, Band(distant, *of_groups, torch.zeros_like(at), last.first)
        reach = (n - 1) // group + self._shift + 1
        return BandedView(bands, max(near + self.chunk_size - 1, reach), n, reach)

    def check(self, context_length: int) -> None:
        self.require(
            self.window_size < context_length,
            f"window_size {self.window_size} must be below the model's trained window of "
            f"{context_length}, of which the groups take the rest; lower window_size (a quarter of "
            "the window or less is usual)",
        )

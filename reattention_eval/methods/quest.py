"""Quest: while decoding, the pages of the cache whose keys could score highest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.methods.base import SELECTION, ViewMethod
from reattention_eval.methods.memory import KeepsIndex

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import PositionsView
    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class Quest(ViewMethod, KeepsIndex):
    """Prompts in full; every decoded token attends, per query head, to the page that it is in and
    to those pages before it whose keys could score highest.

    Tang et al., 2024, arXiv 2406.10774, section 3.2 and algorithm 1: a page keeps the minimum and
    the maximum of its keys in each dimension, and can reach sum_d max(q_d min_d, q_d max_d). Keys
    stay at their own positions: beyond the trained window it fails as full attention does.

    Args:
        budget_tokens: keys attended at most, a whole number of pages, the token's own among them.
        page_size: tokens of a page (the paper's 16).
        dense_layers: first layers that attend to all keys (the paper's 2).
    """

    name: ClassVar[str] = "quest"
    source: ClassVar[str] = "Tang et al., ICML 2024, arXiv 2406.10774"
    family: ClassVar[str] = SELECTION
    budget_meaning: ClassVar[str] = "budget_tokens // page_size pages, for each query head its own"
    budget_tokens: int = 8192
    page_size: int = 16
    dense_layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("page_size", 1), ("dense_layers", 0)):
            value = getattr(self, name)
            self.require(value >= least, f"{name} must be at least {least}, found {value}")
        self.require(
            self.budget_tokens >= self.page_size,
            f"budget_tokens {self.budget_tokens} must hold a page of {self.page_size} tokens; "
            "raise it, or lower page_size",
        )

    @property
    def budget(self) -> int:
        return self.budget_tokens // self.page_size * self.page_size

    @property
    def renumbers(self) -> bool:
        return False

    @property
    def reads_whole(self) -> bool:
        return True

    @property
    def whole_layers(self) -> int:
        return self.dense_layers

    def view(self, row: RowCache, query: Tensor) -> PositionsView:
        import torch

        from reattention_eval.attention import PositionsView
        from reattention_eval.cache import PageBoundsFactory

        size, own = self.page_size, (row.length - 1) // self.page_size
        pages = row.state(PageBoundsFactory(size))
        chosen = pages.highest(query[:, 0], own, self.budget // size - 1)  # [H, pages]
        inside = torch.arange(size, device=query.device)
        before = (chosen[..., None] * size + inside).flatten(1)
        last = torch.arange(own * size, row.length, device=query.device)
        return PositionsView(torch.cat((before, last.expand(len(before), -1)), 1))

    def index_bytes(self, tokens: int, head_dim: int) -> int:
        return -(-tokens // self.page_size) * 2 * head_dim * 2  # in 16 bit, as keys are planned

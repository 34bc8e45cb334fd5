"""Oracles: the keys that full attention itself scores highest, as a bound for methods that guess
them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.methods.base import UPPER_BOUND, ViewMethod

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import ScoredView
    from reattention_eval.cache import RowCache

PREFILLS = ("chosen", "full")


@dataclass(frozen=True)
class Oracle(ViewMethod):
    """Every query attends, per query head, to a part of the keys chosen by its own scores of all.

    An upper bound and no method: it makes every score of full attention to leave out keys, and
    saves nothing. Keys stay at their own positions: beyond the trained window it fails as full
    attention does. chunk_size changes nothing.

    Args:
        prefill: "chosen": a prompt's queries choose too; "full": only decoded tokens do.
    """

    source: ClassVar[str] = "full attention's own scores"
    family: ClassVar[str] = UPPER_BOUND
    prefill: str = field(default="chosen", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.prefill in PREFILLS,
            f"unknown prefill {self.prefill!r}; there are: {', '.join(PREFILLS)}",
        )

    @property
    def renumbers(self) -> bool:
        return False

    @property
    def reads_whole(self) -> bool:
        return self.prefill == "full"

    def view(self, row: RowCache, query: Tensor) -> ScoredView:
        from reattention_eval.attention import ScoredView

        return ScoredView(self.keep)

    @abstractmethod
    def keep(self, scores: Tensor) -> Tensor:
        """See `reattention_eval.attention.ScoredView`."""


@dataclass(frozen=True)
class OracleTopK(Oracle):
    """The `budget_tokens` keys that a query head scores highest; of equal ones the earlier.

    Args:
        budget_tokens: keys that each query head attends to at most.
    """

    name: ClassVar[str] = "oracle_topk"
    budget_meaning: ClassVar[str] = "keys, for each query and query head its own"
    budget_tokens: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.budget_tokens >= 1,
            f"budget_tokens must be at least 1, found {self.budget_tokens}",
        )

    @property
    def budget(self) -> int:
        return self.budget_tokens

    def keep(self, scores: Tensor) -> Tensor:
        return highest(scores, self.budget_tokens)


@dataclass(frozen=True)
class OracleTopP(Oracle):
    """The fewest keys that hold the share `p` of a query head's attention.

    Of equal ones the earlier; how many there are, the record tells (`mean_view`, `decode_view`).

    Args:
        p: the share of the softmax over all keys that they reach, above 0 and at most 1.
        budget_tokens: at most so many of them, the highest; None: as many as it takes.
    """

    name: ClassVar[str] = "oracle_topp"
    budget_meaning: ClassVar[str] = "keys at most, for each query and query head its own"
    p: float = 0.95
    budget_tokens: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        right = type(self.p) in (int, float) and 0 < self.p <= 1
        self.require(right, f"p must be a number above 0 and at most 1, found {self.p!r:.80}")
        object.__setattr__(self, "p", float(self.p))  # 1 and 1.0 are one setting
        if self.budget_tokens is not None:
            self._check_kind("budget_tokens", "int")
            self.require(
                self.budget_tokens >= 1,
                f"budget_tokens must be at least 1, found {self.budget_tokens}",
            )

    @property
    def budget(self) -> int | None:
        return self.budget_tokens

    @property
    def whole_until(self) -> int | None:
        """One token has all of the attention; with p = 1 so have all keys."""
        return self.budget_tokens if self.p == 1 else 1

    def keep(self, scores: Tensor) -> Tensor:
        import torch

        order = scores.sort(dim=-1, descending=True, stable=True)
        wanted = order.values > -torch.inf
        if self.p < 1:
            share = order.values.softmax(-1).double()
            wanted &= share.cumsum(-1) - share < self.p
        if self.budget_tokens is not None:
            wanted[..., self.budget_tokens :] = False
        return torch.zeros_like(wanted).scatter_(-1, order.indices, wanted)


def highest(scores: Tensor, count: int) -> Tensor:
    """True at the `count` highest of the last dimension, or all above -inf; of equal ones the
    first."""
    import torch

    there = scores > -torch.inf
    if scores.shape[-1] <= count:
        return there
    least = scores.topk(count, sorted=False).values.amin(-1, keepdim=True)
    above, equal = scores > least, scores == least
    left = count - above.sum(-1, keepdim=True)
    return (above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= left))) & there

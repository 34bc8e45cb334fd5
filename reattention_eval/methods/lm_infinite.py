"""LM-Infinite: first and near tokens, no distance counted beyond a limit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reattention_eval.methods.base import BEYOND, ViewMethod

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import BandedView
    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class LMInfinite(ViewMethod):
    """Every query attends to the first `global_size` tokens and to the `window_size` up to itself,
    at their own distances, but at no more than `distance_limit`.

    Han et al., 2024, arXiv 2308.16137, section 4: the Lambda-shaped mask and the distance limit
    (not its optional middle tokens). The paper takes the trained window for both sizes. The window
    moves with each query, so that chunk_size changes nothing but the speed.

    Args:
        global_size: first tokens, always attended (the paper's n_global).
        window_size: last tokens attended, the query included (n_local).
        distance_limit: the largest distance that RoPE sees; at least window_size.
        allow_beyond_window: permit a distance_limit above the model's trained window.
    """

    name: ClassVar[str] = "lm_infinite"
    source: ClassVar[str] = "Han et al., NAACL 2024, arXiv 2308.16137"
    family: ClassVar[str] = BEYOND
    budget_meaning: ClassVar[str] = "global_size + window_size; distance_limit is the budget"
    global_size: int = 32
    window_size: int = 8160
    distance_limit: int = 8192
    allow_beyond_window: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("global_size", 0), ("window_size", 1)):
            value = getattr(self, name)
            self.require(value >= least, f"{name} must be at least {least}, found {value}")
        self.require(
            self.distance_limit >= self.window_size,
            f"distance_limit {self.distance_limit} must be at least window_size "
            f"{self.window_size}; raise it, or lower window_size",
        )

    @property
    def budget(self) -> int:
        return self.global_size + self.window_size

    @classmethod
    def budget_settings(cls, tokens: int, given: Mapping[str, Any]) -> dict[str, Any]:
        first = cls.given_or_default(given, "global_size", 0)
        near = tokens - first
        cls.require(
            near >= 1,
            f"budget_tokens {tokens} leaves no window beside global_size {first}; raise it, or "
            "lower global_size",
        )
        limit = {} if "distance_limit" in given else {"distance_limit": tokens}
        return {"window_size": near, **limit}

    @property
    def whole_until(self) -> int:
        """The budget, or the distance limit where that is reached first."""
        return min(self.budget, self.distance_limit)

    def view(self, row: RowCache, query: Tensor) -> BandedView:
        import torch

        from reattention_eval.attention import Band, BandedView, last_tokens, shared_band

        n, t = row.length, query.shape[1]
        limit, first = self.distance_limit, self.global_size
        at = torch.arange(n - t, n, device=query.device)
        near = last_tokens(row, at, self.window_size)
        bands = [near]
        known = torch.arange(min(first, n), device=query.device)
        further = at - limit + 1  # where the limit begins
        if first and n - t - (first - 1) < limit:  # some are outside the window, within the limit
            bands.append(Band(known, known, at, further, near.first))
        if first and n > limit:

            def places() -> tuple[Tensor, Tensor]:
                return torch.zeros_like(known), torch.full_like(at, limit)

            what = self, t, len(known), min(first, n - t - limit + 1)
            zeros = torch.zeros_like(at)
            bands.append(shared_band(row, what, known, zeros, further, places))
        extent = limit + first + self.chunk_size
        return BandedView(tuple(bands), extent, min(n, self.budget), limit + 1)

    def check(self, context_length: int) -> None:
        self.require(
            self.allow_beyond_window or self.distance_limit <= context_length,
            f"distance_limit {self.distance_limit} is larger than the model's trained window of "
            f"{context_length}; lower it and window_size to at most {context_length}, or set "
            "allow_beyond_window=True",
        )

"""Dual chunk attention: places inside a segment, across the border of two, and beyond."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.methods.base import BEYOND, ViewMethod

if TYPE_CHECKING:
    from torch import Tensor

    from reattention_eval.attention import BandedView
    from reattention_eval.cache import RowCache


@dataclass(frozen=True)
class DualChunkAttention(ViewMethod):
    """Every query attends to every token before it; no distance is counted at `window_size` or
    more.

    An et al., 2024, arXiv 2402.17463, section 3. Tokens are counted in segments of `segment_size`
    (the paper's chunks, of size s), each key at its place j % s inside its own. A query with place
    t = i % s counts the keys of its own segment from t (intra-chunk), those of the segment before
    it from min(s + t, c - 1) (successive chunks: exact for the nearest c - s), all others from
    c - 1 (inter-chunk), with c the window_size. Training free; no budget: the whole cache is
    attended, and chunk_size changes nothing but the speed.

    Args:
        segment_size: tokens of a segment; the paper takes three quarters of the trained window.
        window_size: places that RoPE sees, 0..window_size - 1 (the paper's c, the trained window).
    """

    name: ClassVar[str] = "dca"
    source: ClassVar[str] = "An et al., ICML 2024, arXiv 2402.17463"
    family: ClassVar[str] = BEYOND
    segment_size: int = 6144
    window_size: int = 8192

    def __post_init__(self) -> None:
        super().__post_init__()
        size, window = self.segment_size, self.window_size
        self.require(size >= 1, f"segment_size must be at least 1, found {size}")
        self.require(
            size < window,
            f"segment_size {size} must be below window_size {window}, of which the segment before "
            "a query's own takes the rest; lower segment_size (three quarters are usual)",
        )

    @property
    def budget(self) -> None:
        return None

    @property
    def whole_until(self) -> int:
        """Tokens of which all are counted at their own distances."""
        return min(self.window_size, 2 * self.segment_size)

    def view(self, row: RowCache, query: Tensor) -> BandedView:
        import torch

        from reattention_eval.attention import Band, BandedView

        n, t, size = row.length, query.shape[1], self.segment_size
        at = torch.arange(n - t, n, device=query.device)
        begin = at // size * size  # of each query's segment
        first, last = (i // size * size for i in (n - t, n - 1))

        def keys(start: int, stop: int) -> tuple[Tensor, Tensor]:
            positions = torch.arange(max(0, start), stop, device=query.device)
            return positions, positions % size

        furthest = torch.full_like(at, self.window_size - 1)
        succeeding = torch.minimum(size + at % size, furthest)
        bands = [
            Band(*keys(first, n), at % size, begin, at + 1),
            Band(*keys(first - size, last), succeeding, begin - size, begin),
        ]
        if last > size:
            bands.append(Band(*keys(0, last - size), furthest, 0 * at, begin - size))
        return BandedView(tuple(bands), self.window_size, n)

    def check(self, context_length: int) -> None:
        self.require(
            self.window_size <= context_length,
            f"window_size {self.window_size} is larger than the model's trained window of "
            f"{context_length}; lower it to at most {context_length}, and segment_size to three "
            "quarters of it",
        )

"""Dual chunk attention: places inside a segment, across the border of two, and beyond."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from reattention_eval.errors import ConfigError
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
        segment_size: tokens of a segment; None, as in the paper: three quarters of window_size.
        window_size: places that RoPE sees, 0..window_size - 1 (the paper's c); None, as in the
            paper: the trained window of the model that it is attached to.
    """

    name: ClassVar[str] = "dca"
    source: ClassVar[str] = "An et al., ICML 2024, arXiv 2402.17463"
    family: ClassVar[str] = BEYOND
    segment_size: int | None = None
    window_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("segment_size", "window_size"):
            if getattr(self, name) is not None:
                self._check_kind(name, "int")
                value = getattr(self, name)
                self.require(value >= 1, f"{name} must be at least 1, found {value}")
        if self.window_size is None:
            return
        size, window = self.segment_size, self.window_size
        if size is None:
            size = max(1, 3 * window // 4)
            object.__setattr__(self, "segment_size", size)
        self.require(
            size < window,
            f"segment_size {size} must be below window_size {window}, of which the segment before "
            "a query's own takes the rest; lower segment_size (three quarters are usual)",
        )

    def on(self, context_length: int) -> DualChunkAttention:
        return self if self.window_size else replace(self, window_size=context_length)

    @property
    def _sizes(self) -> tuple[int, int]:
        """Of a segment and of the window."""
        size, window = self.segment_size, self.window_size
        if size is None or window is None:
            raise ConfigError(
                f"{self.name}: window_size follows from the model; attach the method to one, ask "
                "`on(context_length)`, or give window_size."
            )
        return size, window

    @property
    def budget(self) -> None:
        return None

    @property
    def whole_until(self) -> int:
        """Tokens of which all are counted at their own distances."""
        size, window = self._sizes
        return min(window, 2 * size)

    def view(self, row: RowCache, query: Tensor) -> BandedView:
        import torch

        from reattention_eval.attention import Band, BandedView

        n, t, (size, window) = row.length, query.shape[1], self._sizes
        at = torch.arange(n - t, n, device=query.device)
        begin = at // size * size  # of each query's segment
        first, last = (i // size * size for i in (n - t, n - 1))

        def keys(start: int, stop: int) -> tuple[Tensor, Tensor]:
            positions = torch.arange(max(0, start), stop, device=query.device)
            return positions, positions % size

        furthest = torch.full_like(at, window - 1)
        succeeding = torch.minimum(size + at % size, furthest)
        bands = [
            Band(*keys(first, n), at % size, begin, at + 1),
            Band(*keys(first - size, last), succeeding, begin - size, begin),
        ]
        if last > size:
            bands.append(Band(*keys(0, last - size), furthest, 0 * at, begin - size))
        return BandedView(tuple(bands), window, n)

    def check(self, context_length: int) -> None:
        _, window = self.on(context_length)._sizes
        self.require(
            window <= context_length,
            f"window_size {window} is larger than the model's trained window of {context_length}; "
            f"lower it to at most {context_length}, and segment_size to three quarters of it",
        )

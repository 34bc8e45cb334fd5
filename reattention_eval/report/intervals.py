"""How far a share of so many samples can be trusted."""

from __future__ import annotations

from math import sqrt

from reattention_eval.report.run import Cell

_Z95 = 1.959963984540054  # the standard normal distribution's 97.5 % point


def wilson(hits: int, n: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson's score interval of a share of `hits` in `n` independent trials, 0..1; 95 % by `z`.

    Unlike the normal approximation it holds for few trials and for shares of 0 and 1 (Wilson, 1927;
    Brown, Cai and DasGupta, 2001). (0, 1) without trials.
    """
    if not n:
        return 0.0, 1.0
    share, spread = hits / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * sqrt(share * (1 - share) / n + spread / (4 * n))
    # a share of 0 or 1 is in its interval, however the roots are rounded
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def accuracy_interval(cell: Cell) -> tuple[float, float] | None:
    """95 % interval of the cell's accuracy, in percent; None where its samples are not each right
    or wrong."""
    found = [detail.get("accuracy") for detail in cell.details]
    if not found or any(value not in (0, 100) for value in found):
        return None
    low, high = wilson(sum(value == 100 for value in found), len(found))
    return 100 * low, 100 * high

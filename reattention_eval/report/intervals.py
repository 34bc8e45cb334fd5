"""How far a figure of so many samples can be trusted: 95 % intervals.

Samples that are each right or wrong have Wilson's interval, others the bootstrap's; the mean of
several figures has the interval that follows from theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import comb, sqrt
from typing import Any, NamedTuple

Z95 = 1.959963984540054  # the standard normal distribution's 97.5 % point
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
RESAMPLES = 2000
# beyond it the bootstrap of a mean is the normal distribution, to within its own noise
_MOST = 5000
RIGHT_OR_WRONG = frozenset((0.0, 100.0))


class Interval(NamedTuple):
    """95 % of a figure, in the figure's unit, and how it came about: wilson, bootstrap or mover."""

    low: float
    high: float
    kind: str

    def overlaps(self, other: Interval) -> bool:
        """Whether the two do not tell their figures apart."""
        return self.low <= other.high and other.low <= self.high


def wilson(hits: float, n: int, z: float = Z95) -> tuple[float, float]:
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


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Percentile bootstrap of the mean over `values` (Efron, 1979): 2.5 and 97.5 % of the means of
    RESAMPLES samples drawn with replacement; the same for the same values.

    The bootstrap takes few values for all there are and is too narrow (Hesterberg, 2015, The
    American Statistician 69, section 3.2): its distances from the mean grow by what Student's t and
    the variance's n - 1 make of the normal interval, 1 where there are many.
    """
    import numpy as np

    given = np.asarray(values, dtype=float)
    mean, n = float(given.mean()), len(given)
    if n > _MOST:
        half = Z95 * float(given.std(ddof=1)) / sqrt(n)
        return mean - half, mean + half
    low, high = np.percentile(_weights(n) @ given / n, (2.5, 97.5))
    wider = _student(n - 1) / Z95 * sqrt(n / (n - 1))
    # the mean is in its interval, however sums are rounded
    below, above = max(0.0, mean - float(low)), max(0.0, float(high) - mean)
    return mean - wider * below, mean + wider * above


def _student(freedom: int) -> float:
    """The 97.5 % point of Student's t."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z = Z95  # Abramowitz and Stegun, 26.7.5
    first = (z**3 + z) / (4 * freedom)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return z + first + second


@lru_cache(maxsize=4)
def _weights(n: int) -> Any:
    """[RESAMPLES, n]: how often each of n samples is drawn; figures of one n share them."""
    import numpy as np

    drawn = np.random.default_rng(0).integers(0, n, (RESAMPLES, n), dtype=np.int64)
    drawn += n * np.arange(RESAMPLES)[:, None]
    times = np.bincount(drawn.ravel(), minlength=RESAMPLES * n)
    return times.reshape(RESAMPLES, n).astype(np.float32)


def interval_of(values: Sequence[float]) -> Interval | None:
    """Of the mean of samples' values; None for values that are not right or wrong and all alike:
    what was not seen to vary says nothing of how it does."""
    if values and RIGHT_OR_WRONG.issuperset(values):
        low, high = wilson(sum(value == 100 for value in values), len(values))
        return Interval(100 * low, 100 * high, "wilson")
    return Interval(*bootstrap(values), "bootstrap") if len(set(values)) > 1 else None


def median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % of the median, between two of the values themselves: exact whatever the distribution
    (Conover, 1999, section 3.2); None for fewer than six."""
    ordered, n = sorted(values), len(values)
    below, tail = 0, 0.5**n if n < 1000 else 0.0
    if n >= 1000:  # the binomial distribution is normal by then
        below = int((n - Z95 * sqrt(n) - 1) / 2)
        return ordered[below], ordered[n - 1 - below]
    while tail <= 0.025:
        below += 1
        tail += comb(n, below) * 0.5**n
    return (ordered[below - 1], ordered[n - below]) if below else None


def interval_of_mean(parts: Sequence[tuple[float, Interval | None]]) -> Interval | None:
    """Of the mean of independent figures, from each with its interval; None where one has none.

    MOVER: distances to the ends add up as variances do (Zou and Donner, 2008, Statistics in
    Medicine 27, 1693), which keeps what Wilson's intervals say of few samples.
    """
    known = [(value, interval) for value, interval in parts if interval is not None]
    if not known or len(known) < len(parts):
        return None
    mean = sum(value for value, _ in known) / len(known)
    below = sqrt(sum((value - interval.low) ** 2 for value, interval in known)) / len(known)
    above = sqrt(sum((interval.high - value) ** 2 for value, interval in known)) / len(known)
    return Interval(mean - below, mean + above, "mover")

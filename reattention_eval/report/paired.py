"""Two sets of scores of the same samples: their difference, and how sure it is.

Intervals are by the report's rule (`intervals.interval_of`): right and wrong answers have the one
that follows from Wilson's, other scores the bootstrap's over pairs, and there is none where all
pairs differ by the same. Right and wrong answers also have McNemar's exact test (McNemar, 1947):
whether, of the samples that only one of the two got right, each has its half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean

from reattention_eval.errors import ConfigError
from reattention_eval.report.intervals import RIGHT_OR_WRONG, bootstrap, wilson
from reattention_eval.report.sample_scores import LOWER_IS_BETTER


@dataclass(frozen=True)
class Difference:
    """B minus A in one figure, over the samples that both have.

    Args:
        a, b: means, in the figure's unit.
        low, high: 95 % interval of `mean`; None of pairs that differ all by the same, and are not
            right or wrong.
        better, worse, same: samples in which B is so.
        p: McNemar's, two-sided; None where samples are not each right or wrong.
    """

    metric: str
    n: int
    a: float
    b: float
    low: float | None
    high: float | None
    better: int
    worse: int
    same: int
    p: float | None

    @property
    def mean(self) -> float:
        """Of B minus A."""
        return self.b - self.a


def difference(metric: str, a: Sequence[float], b: Sequence[float]) -> Difference:
    """Of `b` minus `a`, pair by pair; the same for the same scores.

    Raises:
        ConfigError: scipy is not installed.
        ValueError: no pairs.
    """
    deltas = [y - x for x, y in zip(a, b, strict=True)]
    sign = -1 if metric in LOWER_IS_BETTER else 1
    better, worse = sum(sign * d > 0 for d in deltas), sum(sign * d < 0 for d in deltas)
    same = len(deltas) - better - worse
    low: float | None = None
    high: float | None = None
    p: float | None = None
    if RIGHT_OR_WRONG.issuperset((*a, *b)):
        both = sum(x == y == 100 for x, y in zip(a, b, strict=True))
        only_b, only_a = sum(d > 0 for d in deltas), sum(d < 0 for d in deltas)
        low, high = (100 * end for end in newcombe(both, only_b, only_a, same - both))
        p = mcnemar(only_b, only_a)
    elif len(set(deltas)) > 1:
        low, high = bootstrap(deltas)
    return Difference(metric, len(deltas), fmean(a), fmean(b), low, high, better, worse, same, p)


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of so many pairs that only the one, and only the other, got right: exact
    binomial; 1 without any.

    Raises:
        ConfigError: scipy is not installed.
    """
    if not better + worse:
        return 1.0
    return float(_stats().binomtest(better, better + worse, 0.5).pvalue)


def newcombe(both: int, only_b: int, only_a: int, neither: int) -> tuple[float, float]:
    """95 % of the share that B got right minus A's, -1..1, of samples that both, only B, only A and
    neither got right: the Wilson intervals of the two shares, squared and added, with how the two
    go together (Newcombe, 1998, Statistics in Medicine 17, 2635, method 10). It has a width also
    where no sample differs.

    Raises:
        ValueError: no samples.
    """
    n = both + only_b + only_a + neither
    if not n:
        raise ValueError("no samples have no difference")
    shares = (both + only_b) / n, (both + only_a) / n
    b, a = wilson(both + only_b, n), wilson(both + only_a, n)
    product = (both + only_b) * (both + only_a) * (only_b + neither) * (only_a + neither)
    cross = float(both * neither - only_b * only_a)
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross
    together = cross / sqrt(product) if product else 0.0

    def distance(one: float, other: float) -> float:
        return sqrt(max(0.0, one * one - 2 * together * one * other + other * other))

    difference = (only_b - only_a) / n
    below = distance(shares[0] - b[0], a[1] - shares[1])
    above = distance(b[1] - shares[0], shares[1] - a[0])
    return max(-1.0, difference - below), min(1.0, difference + above)


def _stats():  # type: ignore[no-untyped-def]
    try:
        from scipy import stats
    except ImportError:
        raise ConfigError(
            'intervals and tests are scipy\'s: pip install "reattention-eval[report]"'
        ) from None
    return stats

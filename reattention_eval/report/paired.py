"""Two sets of scores of the same samples: their difference, and how sure it is.

Differences have the percentile bootstrap's interval over pairs (Efron and Tibshirani, 1993, chapter
8); right and wrong answers McNemar's exact test (McNemar, 1947): whether, of the samples that only
one of the two got right, each has its half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from reattention_eval.errors import ConfigError
from reattention_eval.report.intervals import Z95
from reattention_eval.report.samples import LOWER_IS_BETTER

RESAMPLES = 9999
# beyond it the bootstrap of a mean is the normal distribution, to within its own noise
_MOST = 1000


@dataclass(frozen=True)
class Difference:
    """B minus A in one figure, over the samples that both have.

    Args:
        a, b: means, in the figure's unit.
        low, high: 95 % interval of `mean`; None of a single pair.
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
    import numpy as np

    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    deltas = second - first
    sign = -1 if metric in LOWER_IS_BETTER else 1
    better, worse = int((sign * deltas > 0).sum()), int((sign * deltas < 0).sum())
    low, high = _interval(deltas) if len(deltas) > 1 else (None, None)
    judged = all(value in (0.0, 100.0) for value in (*a, *b))
    return Difference(
        metric, len(deltas), float(first.mean()), float(second.mean()), low, high, better, worse,
        len(deltas) - better - worse, mcnemar(better, worse) if judged else None,
    )  # fmt: skip


def mcnemar(better: int, worse: int) -> float:
    """Two-sided p of so many pairs that only the one, and only the other, got right: exact
    binomial; 1 without any.

    Raises:
        ConfigError: scipy is not installed.
    """
    if not better + worse:
        return 1.0
    return float(_stats().binomtest(better, better + worse, 0.5).pvalue)


def _interval(deltas) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    mean, n = float(deltas.mean()), len(deltas)
    if n > _MOST:
        half = Z95 * float(deltas.std(ddof=1)) / sqrt(n)
        return mean - half, mean + half
    if (deltas == deltas[0]).all():
        return mean, mean
    found = _stats().bootstrap(
        (deltas,), _mean, n_resamples=RESAMPLES, method="percentile", rng=0, batch=1000
    ).confidence_interval  # fmt: skip
    # the mean is in its interval, however sums are rounded
    return min(mean, float(found.low)), max(mean, float(found.high))


def _mean(values, axis):  # type: ignore[no-untyped-def]
    return values.mean(axis=axis)


def _stats():  # type: ignore[no-untyped-def]
    try:
        from scipy import stats
    except ImportError:
        raise ConfigError(
            'intervals and tests are scipy\'s: pip install "reattention-eval[report]"'
        ) from None
    return stats

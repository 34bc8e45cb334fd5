"""Intervals against scipy, against a loop, and against what they promise."""

from __future__ import annotations

import random
from math import sqrt
from typing import Any

import numpy as np
import pytest
import scipy.stats

from reattention_eval.report.intervals import (
    Interval,
    bootstrap,
    interval_of,
    interval_of_mean,
    median_interval,
    wilson,
)
from reattention_eval.report.predictions import Predicted
from reattention_eval.report.run import Cell
from reattention_eval.report.sample_scores import figure_interval, sample_values


@pytest.mark.parametrize("n", [7, 60, 300])
def test_the_bootstrap_is_scipy_s(n: int) -> None:
    values = np.random.default_rng(n).gamma(0.7, 30, n).tolist()
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval  # fmt: skip
    low, high = bootstrap(values)
    mean, noise = float(np.mean(values)), 0.08 * (theirs.high - theirs.low)
    wider = scipy.stats.t.ppf(0.975, n - 1) / scipy.stats.norm.ppf(0.975) * sqrt(n / (n - 1))
    widened = (mean - wider * (mean - theirs.low), mean + wider * (theirs.high - mean))
    assert (low, high) == pytest.approx(widened, abs=wider * noise)
    assert (low, high) == bootstrap(values)  # no luck in it


@pytest.mark.parametrize(("n", "least"), [(2, 0.85), (3, 0.9), (5, 0.92), (12, 0.93), (40, 0.93)])
def test_few_samples_hold_the_true_mean_too(n: int, least: float) -> None:
    draw = np.random.default_rng(n)
    held = 0
    for _ in range(400):
        low, high = bootstrap(draw.beta(2, 3, n).tolist())
        held += low <= 0.4 <= high
    assert held / 400 >= least


def test_many_samples_are_normal() -> None:
    values = np.random.default_rng(0).random(6000).tolist()
    half = 1.959964 * float(np.std(values, ddof=1)) / sqrt(6000)
    mean = float(np.mean(values))
    assert bootstrap(values) == pytest.approx((mean - half, mean + half), abs=1e-9)
    mean, half = float(np.mean(values[:5000])), half * sqrt(6 / 5)
    assert bootstrap(values[:5000]) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_right_or_wrong_is_wilson_s_and_one_value_says_nothing() -> None:
    low, high = wilson(2, 3)
    assert interval_of([100.0, 0.0, 100.0]) == Interval(100 * low, 100 * high, "wilson")
    assert interval_of([]) is None
    assert interval_of([37.5]) is None
    assert interval_of([37.5, 37.5, 37.5]) is None
    found = interval_of([10.0, 20.0])
    assert found is not None and found.kind == "bootstrap"


def test_the_interval_of_an_average_holds_what_it_says() -> None:
    """Three tasks of 20 samples, right with chances of their own: 95 % hold the true mean."""
    draw, chances, held = random.Random(0), (0.95, 0.5, 0.7), 0
    for _ in range(1000):
        parts = []
        for chance in chances:
            hits = sum(draw.random() < chance for _ in range(20))
            low, high = wilson(hits, 20)
            parts.append((5.0 * hits, Interval(100 * low, 100 * high, "wilson")))
        found = interval_of_mean(parts)
        assert found is not None
        held += found.low <= 100 * sum(chances) / 3 <= found.high
    assert 935 <= held <= 980


def test_an_average_of_one_is_that_one_and_of_an_unknown_unknown() -> None:
    one = Interval(10.0, 40.0, "wilson")
    assert interval_of_mean([(20.0, one)]) == Interval(10.0, 40.0, "mover")
    assert interval_of_mean([(20.0, one), (30.0, None)]) is None
    assert interval_of_mean([]) is None


@pytest.mark.parametrize("n", [6, 7, 25, 999, 1000])
def test_the_median_lies_between_values_as_often_as_it_says(n: int) -> None:
    low, high = median_interval([float(i) for i in range(n)]) or (0.0, 0.0)
    # the median is below the value of rank r with the chance that at most r of n tosses are heads
    assert low + high == n - 1
    outside = 2 * scipy.stats.binom.cdf(low, n, 0.5)
    assert outside <= 0.052
    assert 2 * scipy.stats.binom.cdf(low + 1, n, 0.5) > 0.045


def test_five_values_have_no_interval_of_their_median() -> None:
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None
    assert median_interval([]) is None


def cell(result: dict[str, Any], records: dict[int, dict[str, Any]] | None = None) -> Cell:
    return Cell("m", "d", Predicted(1), result, {}, records or {})


def test_a_figure_that_is_no_mean_of_its_samples_has_no_interval() -> None:
    details = [{"score": 0.0}, {"score": 100.0}]
    assert sample_values(cell({"score": 50.0, "details": details}), "score") == [0.0, 100.0]
    assert sample_values(cell({"score": 70.0, "details": details}), "score") is None
    # a rule's own name for the same figure
    assert sample_values(cell({"f1": 50.0, "score": 50.0, "details": details}), "f1") == [0, 100]


def test_needles_asked_for_together_are_one_sample() -> None:
    details = [
        {"repeat": repeat, "depth": depth, "score": score}
        for repeat, scores in enumerate(((100, 0), (100, 100), (0, 0)))
        for depth, score in enumerate(scores)
    ]
    asked = cell({"score": 50.0, "n": 3, "details": details})
    assert sample_values(asked, "score") == [50.0, 100.0, 0.0]
    apart = cell({"score": 50.0, "n": 6, "details": details})
    assert len(sample_values(apart, "score") or []) == 6


def test_what_opencompass_and_records_keep() -> None:
    details = {"type": "GEN", "0": {"correct": True}, "1": {"correct": False}}
    judged = cell({"accuracy": 50.0, "details": details})
    assert sample_values(judged, "accuracy") == [100.0, 0.0]
    scored = cell({"answer_nll": 2.0}, {0: {"answer_nll": 1.0}, 1: {"answer_nll": 3.0}})
    assert sample_values(scored, "answer_nll") == [1.0, 3.0]
    surprised = cell({"perplexity": 7.39, "answer_nll": 2.0}, scored.records)
    within = figure_interval(surprised, "answer_nll")
    found = figure_interval(surprised, "perplexity")
    assert within is not None and found is not None
    assert np.log(found[:2]) == pytest.approx(within[:2])


def test_a_part_of_the_samples_has_its_own() -> None:
    details = [
        {"score": 100.0, "reference": {"difficulty": "easy"}},
        {"score": 0.0, "reference": {"difficulty": "hard"}},
        {"score": 0.0, "reference": {"difficulty": "easy"}},
    ]
    assert sample_values(cell({"score_easy": 50.0, "details": details}), "score_easy") == [100, 0]

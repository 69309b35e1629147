"""Intervals and distances have their known values and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crystalsmith.evaluation.statistics import entropy, jensen_shannon, rate, spread, wasserstein, wilson


def test_wilson_interval_is_the_known_one() -> None:
    # 7 of 10: 0.3968 to 0.8922 (Newcombe, Statistics in Medicine 17, 857, 1998, method 3 without continuity).
    assert wilson(7, 10) == pytest.approx((0.3968, 0.8922), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 50)[0] == 0.0
    assert wilson(50, 50)[1] == 1.0


def test_wilson_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = np.random.default_rng(0).binomial(60, 0.3, 2000)
    inside = np.mean([low <= 0.3 <= high for low, high in (wilson(int(h), 60) for h in hits)])
    assert 0.92 < inside < 0.98


def test_unknown_counts_as_a_failure() -> None:
    assert rate([True, False, None, None]) | {"low": 0, "high": 0} == {
        "rate": 0.25,
        "low": 0,
        "high": 0,
        "count": 1,
        "of": 4,
    }
    assert rate([True], 10)["rate"] == pytest.approx(0.1)
    assert math.isnan(rate([])["rate"])


def test_spread_ignores_what_is_not_known_and_brackets_the_mean() -> None:
    values = [*np.random.default_rng(1).normal(3.0, 1.0, 400).tolist(), None, math.nan]
    found = spread(values)
    assert found["of"] == 400
    assert found["mean_low"] < 3.0 < found["mean_high"]
    assert found["mean_high"] - found["mean_low"] == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert spread([None]) == {"of": 0}


def test_distances_are_zero_for_the_same_and_known_for_the_far() -> None:
    a = np.random.default_rng(2).normal(size=300)
    assert wasserstein(a, a) == 0.0
    assert wasserstein(a, a + 2.5) == pytest.approx(2.5)
    assert jensen_shannon([1, 2, 0], [2, 4, 0]) == pytest.approx(0.0, abs=1e-7)
    assert jensen_shannon([1, 0], [0, 1]) == pytest.approx(1.0)
    assert math.isnan(jensen_shannon([0, 0], [1, 1]))
    assert entropy([5, 5, 5, 5]) == pytest.approx(2.0)
    assert entropy([7]) == 0.0

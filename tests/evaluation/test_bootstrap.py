"""Paired bootstrap intervals."""

from __future__ import annotations

import math
from dataclasses import astuple

import numpy as np
import pytest
import scipy.stats

from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.metrics import row_metrics


def test_the_interval_is_the_percentile_bootstrap_of_scipy() -> None:
    generator = np.random.default_rng(0)
    a, b = (row_metrics(generator.geometric(0.04, 300) - 1)["ndcg@20"] for _ in range(2))
    found = paired_interval(a, b)
    expected = scipy.stats.bootstrap(
        (a - b,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(1)
    ).confidence_interval
    error = (a - b).std() / math.sqrt(300)
    assert found.difference == pytest.approx((a - b).mean(), rel=1e-12)
    # two percentiles of 10,000 resamples differ by a few hundredths of a standard error
    assert abs(found.low - expected.low) < 0.15 * error and abs(found.high - expected.high) < 0.15 * error
    assert found.rows == 300 and found.low < found.difference < found.high


def test_pairing_makes_the_interval_of_alike_models_narrow() -> None:
    b = np.random.default_rng(0).random(500)
    found = paired_interval(b + 0.01, b)
    assert (found.low, found.high) == pytest.approx((0.01, 0.01)) and found.excludes_zero
    same = paired_interval(b, b)
    assert (same.difference, same.low, same.high) == (0, 0, 0) and not same.excludes_zero


def test_seeds_are_pooled_row_by_row() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random((3, 100)), generator.random((2, 100))
    assert paired_interval(a, b) == paired_interval(a.mean(0), b.mean(0))
    # ten seeds that say the same are no more rows than one
    ten, one = paired_interval(np.repeat(a[:1], 10, axis=0), b), paired_interval(a[0], b)
    assert astuple(ten) == pytest.approx(astuple(one), abs=1e-12)


def test_users_are_drawn_with_all_of_their_rows() -> None:
    # Of the four draws of two users: both rows of a twice (1), b twice (0), a and b (2 of 3 rows) in half of the draws.
    a, b, users = [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], ["a", "a", "b"]
    wide = paired_interval(a, b, users=users)
    assert (wide.difference, wide.low, wide.high, wide.rows) == (pytest.approx(2 / 3), 0, 1, 3)
    narrow = paired_interval(a, b, users=users, level=0.4)
    assert (narrow.low, narrow.high) == pytest.approx((2 / 3, 2 / 3))
    # Rows that say the same of one user are no more than one row of that user.
    generator = np.random.default_rng(0)
    once = generator.random(40)
    many = paired_interval(np.repeat(once, 9), np.zeros(360), users=np.repeat(np.arange(40), 9))
    assert many.high - many.low == pytest.approx((one := paired_interval(once, np.zeros(40))).high - one.low)
    assert paired_interval(once, np.zeros(40), users=generator.permutation(40)) == one
    with pytest.raises(ValueError, match=r"users: got shape \(2,\), expected \[3\]"):
        paired_interval(a, b, users=["a", "b"])


def test_a_lower_level_is_a_narrower_interval_and_a_seed_repeats_it() -> None:
    a, b = np.random.default_rng(0).random((2, 50))
    wide, narrow = paired_interval(a, b), paired_interval(a, b, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high
    assert paired_interval(a, b, seed=1) == paired_interval(a, b, seed=1) != wide


@pytest.mark.parametrize(
    ("a", "b", "level", "message"),
    [
        ([1, 2], [1], 0.95, "expected \\[R\\]"),
        ([], [], 0.95, "expected \\[R\\]"),
        ([math.nan], [1], 0.95, "not finite"),
        ([1], [1], 1.0, "level: got 1.0"),
    ],
)
def test_bad_values_are_refused(a: list[float], b: list[float], level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        paired_interval(a, b, level=level)

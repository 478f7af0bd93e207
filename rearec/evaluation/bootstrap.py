"""Intervals for the difference of two models on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "paired_interval"]

RESAMPLES = 10_000
# Resamples that are held at a time, and how many numbers these may be.
CHUNK, MOST_NUMBERS = 500, 4_000_000


@dataclass(frozen=True)
class Interval:
    """A difference of means and the percentile bootstrap interval around it.

    difference: mean of a minus mean of b. low, high: the ends of the interval. level: its coverage. rows: how many
    there are.
    """

    difference: float
    low: float
    high: float
    level: float
    rows: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is told from none at this level."""
        return self.low > 0 or self.high < 0


def paired_interval(
    a: ArrayLike,
    b: ArrayLike,
    *,
    users: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Difference of the means of a and b with a paired bootstrap interval over rows or users, seeds pooled.

    Args:
        a, b: [R] or [seeds, R], what each row adds to a metric (see `rearec.evaluation.metrics.row_metrics`). Row r is
            the same row of the dataset in both; under every seed it is drawn together. The numbers of seeds may differ.
        users: [R], the user of each row: users are drawn, each with all of its rows, which are no independent
            observations. None: every row is drawn by itself, which is the same where each user has one.
        level: coverage of the interval, between 0 and 1.
        resamples: bootstrap samples.
        seed: of the resampling.

    Raises:
        ValueError: no rows, different rows in a, b and users, values that are not finite, a level outside (0, 1).
    """
    first, second = (np.atleast_2d(np.asarray(values, dtype=np.float64)) for values in (a, b))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ValueError(f"a, b: got shapes {np.shape(a)} and {np.shape(b)}, expected [R] or [seeds, R] of the same R")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("a, b: got values that are not finite")
    if not 0 < level < 1:
        raise ValueError(f"level: got {level}, expected a number between 0 and 1")
    differences = first.mean(axis=0) - second.mean(axis=0)
    rows = len(differences)
    drawn = np.stack([differences, np.ones(rows)], axis=1)
    if users is not None:
        if np.shape(users) != (rows,):
            raise ValueError(f"users: got shape {np.shape(users)}, expected [{rows}], a user for each row")
        _, of_row = np.unique(np.asarray(users), return_inverse=True)
        drawn = np.stack([np.bincount(of_row, differences), np.bincount(of_row)], axis=1)
    # Most have one of few differences (0 above all), so that drawing how often each occurs is drawing them.
    (values, sizes), counts = _unique_pairs(drawn)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, min(CHUNK, MOST_NUMBERS // len(values)))
    for begin in range(0, resamples, chunk):
        part = means[begin : begin + chunk]
        times = generator.multinomial(len(drawn), counts / len(drawn), size=len(part))
        part[:] = times @ values / (times @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), level, rows)


def _unique_pairs(pairs: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The different rows of [n, 2] as [2, m], in rising order, and how often each of them is there."""
    found, counts = np.unique(pairs, axis=0, return_counts=True)
    return found.T, counts

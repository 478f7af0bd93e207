"""Intervals for the difference of two models on the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["Interval", "paired_interval"]

RESAMPLES = 10_000
CHUNK = 500


@dataclass(frozen=True)
class Interval:
    """A difference of means and the percentile bootstrap interval around it.

    difference: mean of a minus mean of b. low, high: the ends of the interval. level: its coverage. rows: resampled.
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
    a: ArrayLike, b: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Difference of the means of a and b with a paired bootstrap interval over rows, seeds pooled.

    Args:
        a, b: [R] or [seeds, R], what each row adds to a metric (see `rearec.evaluation.metrics.row_metrics`). Row r is
            the same row of the dataset in both; under every seed it is drawn together. The numbers of seeds may differ.
        level: coverage of the interval, between 0 and 1.
        resamples: bootstrap samples of R rows.
        seed: of the resampling.

    Raises:
        ValueError: no rows, different rows in a and b, values that are not finite, a level outside (0, 1).
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
    # Most rows have one of few differences (0 above all), so that drawing how often each occurs is drawing the rows.
    values, counts = np.unique(differences, return_counts=True)
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for begin in range(0, resamples, CHUNK):
        part = means[begin : begin + CHUNK]
        part[:] = generator.multinomial(rows, counts / rows, size=len(part)) @ values / rows
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(differences.mean()), float(low), float(high), level, rows)

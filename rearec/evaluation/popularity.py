"""The order of items by popularity, which decides wherever nothing else does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["popularity_order", "popularity_ranks"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def popularity_ranks(popularity: IntArray, target: IntArray) -> FloatArray:
    """Rank of each target when items are ordered by popularity: float64 [R], 0 is the top, ties count half."""
    ordered = np.sort(popularity)
    own = popularity[target]
    after = np.searchsorted(ordered, own, side="right")
    ties = after - np.searchsorted(ordered, own, side="left") - 1
    return (len(ordered) - after) + 0.5 * ties


def popularity_order(popularity: IntArray) -> IntArray:
    """int64 [N], the items by popularity, ties by lower item."""
    return np.argsort(-popularity, kind="stable")

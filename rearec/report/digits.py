"""How many decimals numbers that stand together are shown with."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["column_decimals", "label_decimals"]

MOST = 4


def column_decimals(values: Iterable[float]) -> int:
    """Decimals that all numbers of a column share: four where they are at most about 1, two below 100, one above.

    The smallest that is not 0 keeps two digits of its own, as far as four decimals reach.
    """
    sizes = _sizes(values)
    largest = max(sizes, default=1.0)
    # a cosine of 1.0000001 is a 1
    of_largest = MOST if largest < 1.0001 else 2 if largest < 100 else 1
    of_smallest = 1 - _magnitude(min(sizes)) if sizes else 0
    return max(of_largest, min(MOST, of_smallest))


def label_decimals(values: Iterable[float]) -> int:
    """Decimals of the numbers written into a plot: the largest has three digits."""
    largest = max(_sizes(values), default=1.0)
    return max(0, min(MOST, 2 - _magnitude(largest)))


def _sizes(values: Iterable[float]) -> list[float]:
    return [abs(value) for value in values if math.isfinite(value) and value]


def _magnitude(size: float) -> int:
    """The exponent of ten of its first digit."""
    return math.floor(math.log10(size))

"""How numbers are shown: alone, and how many decimals those have that stand together."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["column_decimals", "label_decimals", "number"]

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


def number(value: float | None, *, sign: bool = False) -> str:
    """A metric or a difference of metrics as it is printed; None is a dash."""
    if value is None:
        return "–"
    plus = "+" if sign else ""
    return f"{value:{plus}.4f}" if abs(value) < 10 else f"{value:{plus},.1f}"


def _sizes(values: Iterable[float]) -> list[float]:
    return [abs(value) for value in values if math.isfinite(value) and value]


def _magnitude(size: float) -> int:
    """The exponent of ten of its first digit."""
    return math.floor(math.log10(size))

"""Interactions as a folder of parquet parts, of any size in little memory: `python benchmarks/big_table.py --out DIR`.

The number of interactions of a user follows a power law, items one of Zipf; each row is a user, an item and a time in
seconds, and the rows are in random order over the parts. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

# Rows of a part, and the span of the times: ten years.
PART_ROWS = 1_000_000
BEGIN, SPAN = 1_400_000_000, 315_000_000


@dataclass(frozen=True)
class Shape:
    """How large a table is, and how skewed.

    Attributes:
        interactions, users, items: how many; users and items that nobody draws do not occur.
        length_exponent: users have weights with this exponent of the power law's density, above 2.
        item_exponent: the item at rank r is drawn as 1 / r to this power.
    """

    interactions: int
    users: int
    items: int
    length_exponent: float = 2.2
    item_exponent: float = 1.0


# By the logarithm of the interactions: a tenth of them users, a hundredth items.
SHAPES = {power: Shape(10**power, 10 ** (power - 1), 10 ** (power - 2)) for power in (6, 7, 8)}


def write(shape: Shape, out: Path, seed: int = 0, part_rows: int = PART_ROWS) -> None:
    """Write the parts, ``part-0.parquet`` and so on, into a new folder."""
    out.mkdir(parents=True)
    root = np.random.default_rng((seed, shape.interactions))
    # Inverse transforms: a power law of users by weight, one of Zipf of items by rank.
    weights = np.float64(1) / root.random(shape.users) ** (1 / (shape.length_exponent - 1))
    of_user = _cumulated(np.minimum(weights, shape.users**0.5))
    of_item = _cumulated(1 / np.arange(1, shape.items + 1) ** shape.item_exponent)
    names = root.permutation(shape.items)
    for part, begin in enumerate(range(0, shape.interactions, part_rows)):
        rng = np.random.default_rng((seed, shape.interactions, part))
        rows = min(part_rows, shape.interactions - begin)
        frame = pl.DataFrame(
            {
                "user": _drawn(of_user, rng, rows),
                "item": names[_drawn(of_item, rng, rows)],
                "timestamp": BEGIN + rng.integers(0, SPAN, rows),
            }
        )
        frame.write_parquet(out / f"part-{part}.parquet", row_group_size=1 << 18)


def _cumulated(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    total = np.cumsum(weights)
    return total / total[-1]


def _drawn(cumulated: NDArray[np.float64], rng: np.random.Generator, rows: int) -> NDArray[np.int64]:
    # In order they are found many times faster; then they are shuffled.
    found = np.searchsorted(cumulated, np.sort(rng.random(rows)), side="right")
    return rng.permutation(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--power", type=int, choices=SHAPES, help="10^6, 10^7 or 10^8 interactions", default=6)
    parser.add_argument("--interactions", type=int)
    parser.add_argument("--users", type=int)
    parser.add_argument("--items", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    named = SHAPES[options.power]
    shape = Shape(
        options.interactions or named.interactions, options.users or named.users, options.items or named.items
    )
    write(shape, options.out, options.seed)


if __name__ == "__main__":
    main()

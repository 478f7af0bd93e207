"""What features of items have to be, wherever they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.errors import UserError

__all__ = ["check_features"]


def check_features(features: NDArray[np.floating[Any]], num_items: int, source: str) -> None:
    """UserError unless ``features`` is [num_items, width] and finite; names the first bad row, counted from 0."""
    if features.ndim != 2 or features.shape[1] == 0:
        raise UserError(f"{source}: an array of shape {list(features.shape)}; expected one row per item")
    if len(features) != num_items:
        bad = (
            f"row {num_items} is the first of no item"
            if len(features) > num_items
            else f"row {len(features)} is missing"
        )
        raise UserError(f"{source}: {len(features):,} rows, but the dataset has {num_items:,} items: {bad}")
    for low in range(0, num_items, 1 << 14):
        finite = np.isfinite(features[low : low + (1 << 14)]).all(axis=1)
        if not finite.all():
            raise UserError(f"{source}: row {low + int(finite.argmin())} holds a value that is no finite number")

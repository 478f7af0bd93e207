"""Ranks of targets in exported lists, with numpy alone: the environments of other libraries have no rearec."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contenders.libraries.task import IntArray, Sequences, Split

FloatArray = NDArray[np.float64]


def without(lists: IntArray, sequences: Sequences, split: Split = "test", top: int = 20) -> IntArray:
    """The lists without the items of each user's history: int64 [users, top]. A target that is in it stays."""
    result = np.full((len(lists), top), -1, dtype=np.int64)
    for user, (items, target) in enumerate(zip(lists, sequences.targets(split), strict=True)):
        seen = np.isin(items, sequences.history(user, split)) & (items != target)
        left = items[~seen & (items >= 0)][:top]
        result[user, : len(left)] = left
    return result


def ranks(lists: IntArray, targets: IntArray, top: int = 20) -> FloatArray:
    """float64 [users]: each target's place from 0 in the first `top` items, inf where it is not among them."""
    hit = lists[:, :top] == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1), np.inf)


def mean_gain(lists: IntArray, sequences: Sequences, split: Split, gains: Sequence[float]) -> float:
    """A metric with the items of the history taken out. gains: what a target adds to it, by its place in the list."""
    rank = ranks(without(lists, sequences, split, len(gains)), sequences.targets(split), len(gains))
    return float(np.asarray(gains)[rank[np.isfinite(rank)].astype(np.int64)].sum() / len(rank))

"""What an item graph says of histories: the weights of the edges from their last items, added up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges

__all__ = ["RowScores", "summed_scores"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Of one history: a number for every item is quicker than sorting edges, unless there are so many items to an edge.
SPREAD = 64


@dataclass(frozen=True)
class RowScores:
    """Scores of the items that a graph knows for each of R rows; all others have 0.

    offsets: int64 [R + 1]; items: int64 [E], those of row r are ``items[offsets[r]:offsets[r + 1]]``, in rising order;
    scores: float64 [E], above 0.

    Examples:
        >>> import numpy as np
        >>> from rearec.data.item_graph.scores import RowScores
        >>> scores = RowScores(np.array([0, 2, 2]), np.array([3, 7]), np.array([0.5, 0.25]))
        >>> scores.rows.tolist()
        [0, 0]
    """

    offsets: IntArray
    items: IntArray
    scores: FloatArray

    @property
    def rows(self) -> IntArray:
        """int64 [E], the row of each entry."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


def summed_scores(
    starts: IntArray,
    neighbors: NDArray[np.int32],
    weights: NDArray[np.float32],
    offsets: IntArray,
    items: IntArray,
    *,
    last: int,
    decays: Sequence[float],
) -> list[RowScores]:
    """For each decay and history, the sums that `rearec.data.ItemGraph.scores` tells.

    starts, neighbors, weights: the graph's arrays (its ``offsets`` the first). offsets, items, last: as there.
    """
    offsets, items = np.asarray(offsets), np.asarray(items)
    num_items, rows = len(starts) - 1, len(offsets) - 1
    if rows == 1:
        recent = items[offsets[0] : offsets[1]][-last:]
        found = _of_one(starts, neighbors, weights, recent, decays)
        if found is not None:
            return found
    used = np.minimum(np.diff(offsets), last)
    place = ranges(offsets[1:] - used, used)
    back = (np.repeat(offsets[1:], used) - 1 - place).astype(np.float64)
    source = items[place]
    begin = starts[source]
    degree = starts[source + 1] - begin
    edge = ranges(begin, degree)
    key: NDArray[Any] = neighbors[edge]
    if rows > 1:
        key = np.repeat(np.repeat(np.arange(rows) * num_items, used), degree) + key
    # stable, so that every sum has its parts in the order of the history
    order = np.argsort(key, kind="stable")
    key, weight = key[order], weights[edge[order]]
    is_first = np.empty(len(key), dtype=bool)
    is_first[:1] = True
    np.not_equal(key[1:], key[:-1], out=is_first[1:])
    group = np.cumsum(is_first) - 1
    key = key[is_first].astype(np.int64)
    by_decay = []
    for decay in decays:
        sums: NDArray[Any] = np.bincount(group, weight * np.repeat(decay**back, degree)[order], minlength=len(key))
        # what is many places back may be too little for a float
        some = slice(None) if sums.all() else sums > 0
        scored = key[some]
        bounds = np.searchsorted(scored, np.arange(rows + 1) * num_items)
        by_decay.append(RowScores(bounds, scored % num_items if rows > 1 else scored, sums[some]))
    return by_decay


def _of_one(
    starts: IntArray,
    neighbors: NDArray[np.int32],
    weights: NDArray[np.float32],
    items: IntArray,
    decays: Sequence[float],
) -> list[RowScores] | None:
    """The same of one history, these its items that count, by a number for every item; None where sorting is quicker.

    With few calls, for these are what it costs; every sum has its parts in the order of the history here, too.
    """
    ends = zip(starts[items].tolist(), starts[items + 1].tolist(), strict=True)
    spans = [slice(*span) for span in ends]
    degree = [span.stop - span.start for span in spans]
    if len(starts) - 1 > SPREAD * sum(degree):
        return None
    key = np.concatenate([neighbors[span] for span in spans])
    weight = np.concatenate([weights[span] for span in spans])
    back = np.arange(len(spans) - 1, -1, -1.0)
    found = []
    for decay in decays:
        sums: NDArray[Any] = np.bincount(key, weight * np.repeat(decay**back, degree))
        scored = sums.nonzero()[0]
        found.append(RowScores(np.array([0, len(scored)]), scored, sums[scored]))
    return found

"""Ranks and lists of rows whose scores are sparse: items by score, then by popularity, those without a score last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.popularity import popularity_order, popularity_ranks

if TYPE_CHECKING:
    from rearec.data.item_graph import RowScores

__all__ = ["first_items", "row_lists", "row_ranks"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def row_ranks(
    scores: RowScores, target: IntArray, popularity: IntArray, seen: tuple[IntArray, IntArray] | None = None
) -> FloatArray:
    """The rank of each row's target, float64 [R]: the items before it and half of those beside it, itself left out.

    scores: of R rows. target: int64 [R]. popularity: int64 [N].
    seen: pairs (row, item) that are left out, each once and no target among them.

    Examples:
        Item 3 has the best score; 0 and 2 have the same, and 2 is more popular; 1 has none.

        >>> import numpy as np
        >>> from rearec.data import RowScores
        >>> from rearec.evaluation.row_scores import row_ranks
        >>> scores = RowScores(np.array([0, 3]), np.array([0, 2, 3]), np.array([0.5, 0.5, 0.7]))
        >>> popularity = np.array([1, 9, 4, 1])
        >>> [float(row_ranks(scores, np.array([item]), popularity)[0]) for item in range(4)]
        [2.0, 3.0, 1.0, 0.0]
    """
    count, rows = np.diff(scores.offsets), np.arange(len(target))
    own, level = _scores_of(scores, rows, target, len(popularity)), popularity[target]
    of_target = np.repeat(own, count)

    def before(row: IntArray, item: IntArray) -> FloatArray:
        """1 where the item stands before the row's target by popularity, 0.5 where beside it."""
        return (popularity[item] > level[row]) + 0.5 * (popularity[item] == level[row])

    def added(row: IntArray, parts: FloatArray) -> FloatArray:
        return np.bincount(row, parts, minlength=len(rows)).astype(np.float64)

    above = np.concatenate(([0], np.cumsum(scores.scores > of_target)))
    ranks = (above[scores.offsets[1:]] - above[scores.offsets[:-1]]).astype(np.float64)
    beside = np.flatnonzero((scores.scores == of_target) & (scores.items != np.repeat(target, count)))
    row = np.repeat(rows, count)
    ranks += added(row[beside], before(row[beside], scores.items[beside]))
    # a target without a score comes after all that have one, among the others by popularity
    ranks += np.where(own > 0, 0.0, popularity_ranks(popularity, target))
    scored = np.flatnonzero(of_target == 0)
    ranks -= added(row[scored], before(row[scored], scores.items[scored]))
    if seen is not None:
        row, item = seen
        score = _scores_of(scores, row, item, len(popularity))
        ranks -= added(row, (score > own[row]) + (score == own[row]) * before(row, item))
    return ranks


def row_lists(scores: RowScores, popularity: IntArray, k: int, barred: Sequence[set[int]]) -> IntArray:
    """int64 [R, k], the first k items of each row, ties by lower item; -1 where there are fewer.

    popularity: int64 [N]. barred: for each row the items that are left out.
    """
    best = scores.items[np.lexsort((-popularity[scores.items], -scores.scores, scores.rows))]
    order = popularity_order(popularity).tolist()
    bounds = scores.offsets.tolist()
    return np.array(
        [
            first_items(k, chain(best[begin : min(end, begin + k + len(out))].tolist(), order), out)
            for begin, end, out in zip(bounds, bounds[1:], barred, strict=False)
        ]
    ).reshape(-1, k)


def first_items(k: int, ranking: Iterable[int], barred: set[int]) -> list[int]:
    """The first k different items that are not barred, then -1."""
    best: dict[int, None] = {}
    for item in ranking:
        if len(best) == k:
            break
        if item not in barred:
            best[item] = None
    return [*best, *[-1] * (k - len(best))]


def _scores_of(scores: RowScores, row: IntArray, item: IntArray, num_items: int) -> FloatArray:
    """The score of each pair of a row and an item, 0 where it has none."""
    known, wanted = scores.rows * num_items + scores.items, row * num_items + item
    if not len(known):
        return np.zeros(len(wanted))
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return np.where(known[place] == wanted, scores.scores[place], 0.0)

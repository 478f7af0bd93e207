"""The first-order Markov chain: what followed the last item in training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.popularity import popularity_ranks

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.data.words import SplitName

__all__ = ["MarkovChain", "last_items"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def last_items(dataset: SequenceDataset, split: SplitName) -> IntArray:
    """The item before the target of each row, int64 [rows]; -1 where the history is empty."""
    rows = np.asarray(dataset.rows(split))
    place = np.asarray(dataset.offsets)[rows[:, 0]] + rows[:, 1] - 1
    return np.where(rows[:, 1] > 0, np.asarray(dataset.items)[np.maximum(place, 0)], -1).astype(np.int64)


class MarkovChain:
    """First-order Markov recommender: items by how often they followed the last one, then by popularity.

    An item that never followed the last item comes after all that did; among equal transition counts the more popular
    item comes first.

    Args:
        last: int64 [M], the item before the target of each training row.
        target: int64 [M].
        popularity: int64 [N].
    """

    def __init__(self, last: IntArray, target: IntArray, popularity: IntArray) -> None:
        self.popularity = popularity
        items = len(popularity)
        edges, count = np.unique(last * items + target, return_counts=True)
        self._edges = edges
        self._count = count
        self._source = edges // items
        # One integer per edge that orders the followers of an item: by count, then by popularity.
        self._popularity_levels, level = np.unique(popularity, return_inverse=True)
        self._item_level = level.astype(np.int64)
        strength = count * len(self._popularity_levels) + self._item_level[edges % items]
        self._strengths, self._edge_strength = np.unique(strength, return_inverse=True)
        self._by_strength = np.sort(self._source * len(self._strengths) + self._edge_strength)
        self._by_level = np.sort(self._source * len(self._popularity_levels) + self._item_level[edges % items])

    def ranks(self, last: IntArray, target: IntArray) -> FloatArray:
        """Rank of each target after its last item (-1: no history, the order is popularity alone): float64 [R]."""
        result = popularity_ranks(self.popularity, target)
        if not len(self._edges):
            return result
        known = np.flatnonzero(last >= 0)
        source, wanted = last[known], target[known]
        edge = source * len(self.popularity) + wanted
        place = np.minimum(np.searchsorted(self._edges, edge), len(self._edges) - 1)
        followed = self._edges[place] == edge

        # Targets that followed the last item: only other followers can stand above or beside them.
        above, ties = self._above_and_ties(
            self._by_strength, source[followed], self._edge_strength[place[followed]], len(self._strengths)
        )
        result[known[followed]] = above + 0.5 * (ties - 1)

        # The others: all followers stand above, then popularity decides among the items that are no followers.
        source, wanted, rest = source[~followed], wanted[~followed], known[~followed]
        followers = np.searchsorted(self._source, source, side="right") - np.searchsorted(self._source, source)
        above, ties = self._above_and_ties(
            self._by_level, source, self._item_level[wanted], len(self._popularity_levels)
        )
        result[rest] += followers - above - 0.5 * ties
        return result

    def scores(self, last: IntArray, item: IntArray) -> IntArray:
        """int64 [M]: what orders the items after one last item (-1: no history), each pair's own; more is better."""
        level = self._item_level[item]
        if not len(self._edges):
            return level
        edge = last * len(self.popularity) + item
        place = np.minimum(np.searchsorted(self._edges, edge), len(self._edges) - 1)
        count = np.where((last >= 0) & (self._edges[place] == edge), self._count[place], 0)
        return count * len(self._popularity_levels) + level

    def followers(self, last: int) -> IntArray:
        """int64, the items that followed one (-1: none), best first, ties by lower item."""
        first, end = np.searchsorted(self._source, [last, last + 1])
        best = np.argsort(-self._edge_strength[first:end], kind="stable")
        return self._edges[first:end][best] - last * len(self.popularity)

    @staticmethod
    def _above_and_ties(ordered: IntArray, source: IntArray, value: IntArray, levels: int) -> tuple[IntArray, IntArray]:
        """Followers of each source with a larger, and with the same, value."""
        after = np.searchsorted(ordered, source * levels + value, side="right")
        ties = after - np.searchsorted(ordered, source * levels + value, side="left")
        return np.searchsorted(ordered, (source + 1) * levels) - after, ties

"""The two floors a sequence model has to beat: popularity and a first-order Markov chain.

Both are counted from the training data alone and ranked by the rule of the evaluation: items scored above the target
plus half of the ties, the target itself left out, and the items of the history where they are to be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.seen import RowHistories

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.data.words import SplitName

__all__ = [
    "FLOORS",
    "MarkovChain",
    "baseline_lists",
    "baseline_ranks",
    "last_items",
    "popularity_order",
    "popularity_ranks",
]

# As results name them.
FLOORS = ("popularity", "markov")

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows whose histories are looked at at a time.
CHUNK = 4096


def last_items(dataset: SequenceDataset, split: SplitName) -> IntArray:
    """The item before the target of each row, int64 [rows]; -1 where the history is empty."""
    rows = np.asarray(dataset.rows(split))
    place = np.asarray(dataset.offsets)[rows[:, 0]] + rows[:, 1] - 1
    return np.where(rows[:, 1] > 0, np.asarray(dataset.items)[np.maximum(place, 0)], -1).astype(np.int64)


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


def baseline_ranks(dataset: SequenceDataset, split: SplitName, *, exclude_seen: bool) -> dict[str, FloatArray]:
    """Ranks of both floors for every row of a split, in the order of ``dataset.rows(split)``.

    exclude_seen: whether the items of a row's history are left out; its target never is.

    Returns:
        ``{"popularity": float64 [R], "markov": float64 [R]}``
    """
    popularity, markov = _fitted(dataset)
    target, last = dataset.targets(split), last_items(dataset, split)
    ranks = {"popularity": popularity_ranks(popularity, target), "markov": markov.ranks(last, target)}
    if exclude_seen:
        for row, item in _seen_pairs(dataset, split):
            own = target[row]
            _leave_out(ranks["popularity"], row, popularity[item], popularity[own])
            _leave_out(ranks["markov"], row, markov.scores(last[row], item), markov.scores(last[row], own))
    return ranks


def baseline_lists(
    dataset: SequenceDataset, split: SplitName, k: int, *, exclude_seen: bool
) -> Iterator[tuple[str, IntArray, IntArray]]:
    """The first k items of both floors for every row of a split, ties by lower item.

    exclude_seen: whether the items of a row's history are left out.

    Yields:
        ("popularity" or "markov", int64 [n] rows, int64 [n, k] items, -1 where a row has fewer), for some rows at a
        time.
    """
    popularity, markov = _fitted(dataset)
    order = popularity_order(popularity).tolist()
    last, histories = last_items(dataset, split), RowHistories(dataset, split)
    for rows in _chunks(len(last)):
        offsets, seen = histories(rows)
        barred = [set(items.tolist()) if exclude_seen else set() for items in np.split(seen, offsets[1:-1])]
        yield "popularity", rows, np.array([_first(k, order, items) for items in barred])
        rankings = (chain(markov.followers(source).tolist(), order) for source in last[rows].tolist())
        yield "markov", rows, np.array([_first(k, *both) for both in zip(rankings, barred, strict=True)])


def _fitted(dataset: SequenceDataset) -> tuple[IntArray, MarkovChain]:
    """Popularity, int64 [N], and the Markov chain of the training data."""
    popularity = dataset.train_item_counts()
    return popularity, MarkovChain(last_items(dataset, "train"), dataset.targets("train"), popularity)


def _chunks(rows: int) -> Iterator[IntArray]:
    for begin in range(0, rows, CHUNK):
        yield np.arange(begin, min(begin + CHUNK, rows))


def _seen_pairs(dataset: SequenceDataset, split: SplitName) -> Iterator[tuple[IntArray, IntArray]]:
    """All pairs (row, item of its history that is not its target), each once, those of some rows at a time."""
    histories, target = RowHistories(dataset, split), dataset.targets(split)
    for rows in _chunks(len(target)):
        offsets, items = histories(rows)
        pairs = np.unique(np.repeat(rows, np.diff(offsets)) * dataset.num_items + items)
        row, item = pairs // dataset.num_items, pairs % dataset.num_items
        other = item != target[row]
        yield row[other], item[other]


def _leave_out(ranks: FloatArray, row: IntArray, seen: IntArray, target: IntArray) -> None:
    """Take seen items out of the ranks of their rows, by the scores of both and of the rows' targets."""
    np.subtract.at(ranks, row, (seen > target) + 0.5 * (seen == target))


def _first(k: int, ranking: Iterable[int], barred: set[int]) -> list[int]:
    """The first k different items that are not barred, then -1."""
    best: dict[int, None] = {}
    for item in ranking:
        if len(best) == k:
            break
        if item not in barred:
            best[item] = None
    return [*best, *[-1] * (k - len(best))]

"""Which items go together in the training part of a dataset, and how much: what an item graph makes weights of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rearec.data.item_graph.options import GraphOptions
from rearec.data.item_graph.swing import swing_counts

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["Lists", "counted"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
# Source, neighbour and summed weight of all edges of some items, sorted by source and neighbour.
Edges = tuple[IntArray, IntArray, FloatArray]

# Pairs that are counted at a time: those of as many items as have so many, or so many for each interaction where these
# are more, as each time goes through all interactions.
PAIRS, PAIRS_OF_EACH = 1 << 22, 2
# Weights are summed as integers, which have one sum in whatever order.
UNIT = 1 << 30


class Lists(NamedTuple):
    """Lists of items one after the other: the items, how many stand before and after each, whether it ends pairs."""

    items: NDArray[np.int32]
    before: IntArray
    after: IntArray
    ends: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: SequenceDataset, options: GraphOptions) -> Lists:
        items, ends = np.asarray(dataset.items), dataset.training_interactions()
        length = np.diff(dataset.offsets)
        if options.kind != "transitions":
            # a list for each user, every item once
            user = np.repeat(np.asarray(dataset.sequence_user).astype(np.int64), length)[ends]
            items = items[ends]
            first = np.sort(np.unique(user * dataset.num_items + items, return_index=True)[1])
            items, ends = items[first], np.ones(len(first), dtype=bool)
            length = np.unique(user[first], return_counts=True)[1]
        before = np.arange(len(items)) - np.repeat(np.cumsum(length) - length, length)
        return cls(items, before, np.repeat(length, length) - 1 - before, ends)


def counted(lists: Lists, num_items: int, options: GraphOptions) -> Iterator[Edges]:
    """All edges, some items' at a time."""
    if options.kind == "swing":
        return _pairs_of_users(lists, num_items)
    return _pairs_of_items(lists, num_items, options)


def _pairs_of_items(lists: Lists, num_items: int, options: GraphOptions) -> Iterator[Edges]:
    """By the places between two items of a list."""
    window = min(options.window, int(lists.before.max(initial=0)))
    weights = np.array([weight for gap in range(1, window + 1) for weight in _weights(options, gap)], dtype=np.int64)
    pairs = np.bincount(
        lists.items, np.minimum(lists.before, window) + np.minimum(lists.after, window), minlength=num_items
    )
    share = np.cumsum(pairs) // max(PAIRS, PAIRS_OF_EACH * len(lists.items))
    for low, high in pairwise([*np.flatnonzero(np.diff(share, prepend=-1)).tolist(), num_items]):
        parts = [np.empty(0, dtype=np.int64)]
        for gap in range(1, window + 1):
            earlier, later = lists.items[:-gap], lists.items[gap:]
            pair = lists.ends[gap:] & (lists.before[gap:] >= gap) & (earlier != later)
            for way, source, neighbor in ((2 * gap - 2, earlier, later), (2 * gap - 1, later, earlier)):
                if weights[way]:
                    own = pair & (source >= low) & (source < high)
                    edge = source[own].astype(np.int64) * num_items + neighbor[own]
                    parts.append(edge * len(weights) + way)
        code = np.concatenate(parts)
        # sorting is much quicker than counting in a hash table
        code.sort()
        edge, kind = np.divmod(code, max(1, len(weights)))
        first = np.flatnonzero(np.diff(edge, prepend=-1))
        if len(first):
            edge = edge[first]
            yield edge // num_items, edge % num_items, np.add.reduceat(weights[kind], first) / UNIT


def _pairs_of_users(lists: Lists, num_items: int) -> Iterator[Edges]:
    """By pairs of users; each list is one's of different items."""
    user = np.cumsum(lists.before == 0) - 1
    parts, edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))], 0
    for item, others, count in swing_counts(user, lists.items.astype(np.int64), num_items):
        parts.append((np.full(len(others), item), others, count))
        edges += len(others)
        if edges > PAIRS:
            yield _joined(parts)
            parts, edges = parts[:1], 0
    yield _joined(parts)


def _joined(parts: Sequence[Edges]) -> Edges:
    source, neighbor, summed = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return source, neighbor, summed


def _weights(options: GraphOptions, gap: int) -> tuple[int, int]:
    """What a pair so many places apart counts from the earlier item to the later one, and back."""
    if options.kind == "cooccurrence":
        return UNIT, UNIT
    weight = options.decay ** (gap - 1)
    return round(weight * UNIT), round(options.reverse * weight * UNIT)

"""Weighted item-to-item graphs of the training part of a dataset: which item tends to follow which.

Nothing of valid or test rows enters: a pair counts where its later item is a training interaction (see
`SequenceDataset.training_interactions`).

``transitions``    item b up to ``window`` places behind a counts ``decay`` to the power of the places between them, and
                   ``reverse`` times that from b to a (recency-weighted pairwise rules)
``cooccurrence``   how many users have both, among ``window`` of a user's items in the order of their first occurrence
                   (ItemKNN: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001)
``swing``          how many pairs of users have both, those less who have much in common (`rearec.data.swing`)

Counts become weights by M[a, b] / ((sum of row a + shrinkage) (interactions of b + 1)^popularity), for ``cooccurrence``
by the cosine M[a, b] / sqrt(users of a x users of b). Of each item the ``neighbors`` largest weights are kept, ties by
lower neighbour; an item is no neighbour of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges
from rearec.data.swing import swing_counts
from rearec.errors import UserError, in_one_line
from rearec.fields import checked_values, documented, setting
from rearec.files import open_aside

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["GraphOptions", "ItemGraph", "RowScores"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
GraphKind = Literal["transitions", "cooccurrence", "swing"]

# Pairs that are counted at a time: those of as many items as have so many, or so many for each interaction where these
# are more, as each time goes through all interactions.
PAIRS, PAIRS_OF_EACH = 1 << 22, 2
# Of one history: a number for every item is quicker than sorting edges, unless there are so many items to an edge.
SPREAD = 64
# Weights of pairs of items are summed as integers, which have one sum in whatever order.
UNIT = 1 << 30


@documented
@dataclass(frozen=True)
class GraphOptions:
    """How an `ItemGraph` is counted; a wrong value raises ValueError naming it.

    Examples:
        >>> from rearec.data.item_graph import GraphOptions
        >>> GraphOptions(window=1, reverse=0.0).decay
        0.6
        >>> GraphOptions(window=0)
        Traceback (most recent call last):
        ValueError: window: got 0, expected an integer, 1 or more
    """

    kind: GraphKind = setting("What counts as an edge.", default="transitions")
    window: int = setting("Places from one item to the other at most; swing has no such limit.", default=4, at_least=1)
    decay: float = setting("Of the weight, for each place more.", default=0.6, above=0)
    reverse: float = setting("Share at which a transition counts backwards.", default=0.5, at_least=0)
    shrinkage: float = setting("Added to the sum of an item's transitions.", default=1.0, at_least=0)
    popularity: float = setting("Exponent of the popularity that weights are divided by.", default=0.3, at_least=0)
    neighbors: int = setting("Kept of each item.", default=100, at_least=1)

    def __post_init__(self) -> None:
        for name, value in checked_values(self).items():
            object.__setattr__(self, name, value)
        for name in ("decay", "reverse"):
            if (value := getattr(self, name)) > 1:
                raise ValueError(f"{name}: got {value}, expected a number of at most 1")


@dataclass(frozen=True)
class RowScores:
    """Scores of the items that a graph knows for each of R rows; all others have 0.

    offsets: int64 [R + 1]; items: int64 [E], those of row r are ``items[offsets[r]:offsets[r + 1]]``, in rising order;
    scores: float64 [E], above 0.

    Examples:
        >>> import numpy as np
        >>> from rearec.data.item_graph import RowScores
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


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """Weighted edges from each item to its neighbours, the strongest first.

    Attributes:
        offsets: int64 [N + 1]; the edges of item a are the entries [offsets[a], offsets[a + 1]).
        neighbors: int32 [E].
        weights: float32 [E], above 0, in falling order within an item, ties by lower neighbour.
        options: how it was counted.
        fingerprint: of the dataset that it was counted in.

    Examples:
        Whoever had tea had rice next; the other direction counts half.

        >>> import numpy as np
        >>> from rearec.data import ItemGraph, SequenceDataset
        >>> none = np.empty((0, 2), dtype=np.int32)
        >>> dataset = SequenceDataset(
        ...     items=np.array([0, 1, 2], dtype=np.int32),
        ...     offsets=np.array([0, 3]),
        ...     sequence_user=np.array([0], dtype=np.int32),
        ...     split_rows={"train": np.array([[0, 1]], np.int32), "valid": none, "test": np.array([[0, 2]], np.int32)},
        ...     item_ids=["tea", "rice", "salt"],
        ...     user_ids=["ann"],
        ...     statistics={},
        ... )
        >>> graph = ItemGraph.of(dataset, shrinkage=0.0, popularity=0.0)
        >>> graph.edges(0)[0].tolist(), graph.edges(1)[0].tolist(), graph.edges(2)[0].tolist()
        ([1], [0], [])
    """

    offsets: IntArray
    neighbors: NDArray[np.int32]
    weights: NDArray[np.float32]
    options: GraphOptions
    fingerprint: str

    @classmethod
    def of(cls, dataset: SequenceDataset, options: GraphOptions | None = None, **given: Any) -> ItemGraph:
        """Count the graph of a dataset's training part.

        options: how; or its fields as keywords.
        """
        options = options or GraphOptions(**given)
        lists, count, num_items = _Lists.of(dataset, options), dataset.train_item_counts(), dataset.num_items
        users = np.bincount(lists.items, minlength=num_items).astype(np.float64)
        degree = np.zeros(num_items, dtype=np.int64)
        neighbors, weights = [np.empty(0, np.int32)], [np.empty(0, np.float32)]
        counted = _pairs_of_users(lists, num_items) if options.kind == "swing" else _counted(lists, num_items, options)
        for source, neighbor, summed in counted:
            if options.kind == "cooccurrence":
                exact = summed / np.sqrt(users[source] * users[neighbor])
            else:
                total = np.bincount(source, summed, minlength=num_items) + options.shrinkage
                exact = summed / (total[source] * (count[neighbor] + 1.0) ** options.popularity)
            value = exact.astype(np.float32)
            # stable, so that ties stay in the order of their neighbours
            order = np.lexsort((-value, source))
            source, neighbor, value = source[order], neighbor[order], value[order]
            place = np.arange(len(source)) - np.searchsorted(source, source)
            kept = (place < options.neighbors) & (value > 0)
            degree += np.bincount(source[kept], minlength=num_items)
            neighbors.append(neighbor[kept].astype(np.int32))
            weights.append(value[kept])
        offsets = np.concatenate(([0], np.cumsum(degree)))
        return cls(offsets, np.concatenate(neighbors), np.concatenate(weights), options, dataset.fingerprint)

    @classmethod
    def load(cls, path: str | Path) -> tuple[ItemGraph, dict[str, Any]]:
        """What `save` wrote, memory-mapped: the graph, and what was noted with it.

        Raises:
            UserError: there is no such file, or it is damaged.
        """
        # torch is imported by those who read or write alone
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name).numpy() for name in ("offsets", "neighbors", "weights")}
                said = json.loads((file.metadata() or {})["graph"])
                options, noted = GraphOptions(**said["options"]), dict(said["noted"])
                graph = cls(**arrays, options=options, fingerprint=str(said["fingerprint"]))
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: not a readable item graph ({in_one_line(error)})") from error
        graph.check(path)
        return graph, noted

    def save(self, path: str | Path, noted: Mapping[str, Any] | None = None) -> None:
        """Write the graph as one safetensors file, aside first, with whatever plain values are to be noted with it.

        Raises:
            UserError: it cannot be written.
        """
        import safetensors.torch
        import torch

        arrays = {"offsets": self.offsets, "neighbors": self.neighbors, "weights": self.weights}
        said = {"options": asdict(self.options), "fingerprint": self.fingerprint, "noted": dict(noted or {})}
        tensors = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
        with open_aside(Path(path), "wb") as file:
            file.write(safetensors.torch.save(tensors, {"graph": json.dumps(said)}))

    def check(self, path: str | Path) -> None:
        """UserError where the arrays are not those of a graph, so that nothing reads beyond them."""
        offsets, neighbors = self.offsets, self.neighbors
        whole = (
            offsets.ndim == neighbors.ndim == self.weights.ndim == 1
            and (offsets.dtype, neighbors.dtype, self.weights.dtype) == (np.int64, np.int32, np.float32)
            and len(offsets) > 0
            and offsets[0] == 0
            and offsets[-1] == len(neighbors) == len(self.weights)
            and bool((np.diff(offsets) >= 0).all())
            and bool(((neighbors >= 0) & (neighbors < self.num_items)).all())
            and bool((np.isfinite(self.weights) & (self.weights > 0)).all())
        )
        if not whole:
            raise UserError(f"{path}: damaged: offsets, neighbours and weights of an item graph do not fit together")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.num_items:,} items, {len(self.neighbors):,} edges; {self.options.kind})"

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def edges(self, item: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The neighbours of an item and their weights, strongest first."""
        own = slice(self.offsets[item], self.offsets[item + 1])
        return self.neighbors[own], self.weights[own]

    def top(self, m: int) -> tuple[IntArray, NDArray[np.float32]]:
        """int64 [N, m] and float32 [N, m]: the m strongest neighbours of every item; -1 and 0 where there are fewer."""
        place = np.arange(m)
        there = place < np.diff(self.offsets)[:, None]
        if not len(self.neighbors):
            return np.full(there.shape, -1, np.int64), np.zeros(there.shape, np.float32)
        edge = np.minimum(self.offsets[:-1, None] + place, len(self.neighbors) - 1)
        return np.where(there, self.neighbors[edge], -1).astype(np.int64), np.where(there, self.weights[edge], 0)

    def scores(self, offsets: IntArray, items: IntArray, *, last: int, decay: float) -> RowScores:
        """For each history the sum of the edges from its last items, each place back counting ``decay`` times less.

        An item that stands there twice counts at both of its places.

        offsets: int64 [R + 1]; items: the histories one after the other, oldest first, as many as offsets say.
        last: how many of the last items count, of shorter histories all.
        """
        return self.scores_by_decay(offsets, items, last=last, decays=[decay])[0]

    def scores_by_decay(
        self, offsets: IntArray, items: IntArray, *, last: int, decays: Sequence[float]
    ) -> list[RowScores]:
        """The same for each of several decays, which the edges are looked up once for."""
        offsets, items = np.asarray(offsets), np.asarray(items)
        rows = len(offsets) - 1
        used = np.minimum(np.diff(offsets), last)
        place = ranges(offsets[1:] - used, used)
        back = (np.repeat(offsets[1:], used) - 1 - place).astype(np.float64)
        source = items[place]
        begin = self.offsets[source]
        degree = self.offsets[source + 1] - begin
        edge = ranges(begin, degree)
        key: NDArray[Any] = self.neighbors[edge]
        if rows == 1 and self.num_items <= SPREAD * len(edge):
            return [_summed(key, self.weights[edge] * np.repeat(decay**back, degree)) for decay in decays]
        if rows > 1:
            key = np.repeat(np.repeat(np.arange(rows) * self.num_items, used), degree) + key
        # stable, so that every sum has its parts in the order of the history
        order = np.argsort(key, kind="stable")
        key, weight = key[order], self.weights[edge[order]]
        is_first = np.empty(len(key), dtype=bool)
        is_first[:1] = True
        np.not_equal(key[1:], key[:-1], out=is_first[1:])
        group = np.cumsum(is_first) - 1
        key = key[is_first].astype(np.int64)
        found = []
        for decay in decays:
            sums: NDArray[Any] = np.bincount(group, weight * np.repeat(decay**back, degree)[order], minlength=len(key))
            # what is many places back may be too little for a float
            some = slice(None) if sums.all() else sums > 0
            scored = key[some]
            bounds = np.searchsorted(scored, np.arange(rows + 1) * self.num_items)
            found.append(RowScores(bounds, scored % self.num_items if rows > 1 else scored, sums[some]))
        return found


def _summed(neighbors: NDArray[Any], weights: NDArray[Any]) -> RowScores:
    """Of one history the sum of its edges' weights to each neighbour, its parts in the order of the edges."""
    sums: NDArray[Any] = np.bincount(neighbors, weights)
    items = np.flatnonzero(sums)
    return RowScores(np.array([0, len(items)]), items, sums[items])


class _Lists(NamedTuple):
    """Lists of items one after the other: the items, how many stand before and after each, whether it ends pairs."""

    items: NDArray[np.int32]
    before: IntArray
    after: IntArray
    ends: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: SequenceDataset, options: GraphOptions) -> _Lists:
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


def _counted(lists: _Lists, num_items: int, options: GraphOptions) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """Source, neighbour and summed weight of all edges of some items at a time, sorted by source and neighbour."""
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


def _pairs_of_users(lists: _Lists, num_items: int) -> Iterator[tuple[IntArray, IntArray, FloatArray]]:
    """The same by pairs of users: each list is one's of different items."""
    user = np.cumsum(lists.before == 0) - 1
    parts, edges = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))], 0
    for item, others, count in swing_counts(user, lists.items.astype(np.int64), num_items):
        parts.append((np.full(len(others), item), others, count))
        edges += len(others)
        if edges > PAIRS:
            yield _joined(parts)
            parts, edges = parts[:1], 0
    yield _joined(parts)


def _joined(
    parts: Sequence[tuple[IntArray, IntArray, FloatArray]],
) -> tuple[IntArray, IntArray, FloatArray]:
    source, neighbor, summed = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return source, neighbor, summed


def _weights(options: GraphOptions, gap: int) -> tuple[int, int]:
    """What a pair so many places apart counts from the earlier item to the later one, and back."""
    if options.kind == "cooccurrence":
        return UNIT, UNIT
    weight = options.decay ** (gap - 1)
    return round(weight * UNIT), round(options.reverse * weight * UNIT)

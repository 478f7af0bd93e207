"""Weighted item-to-item graphs of the training part of a dataset: which item tends to follow which.

Nothing of valid or test rows enters: a pair counts where its later item is a training interaction (see
`SequenceDataset.training_interactions`).

``transitions``    item b up to ``window`` places behind a counts ``decay`` to the power of the places between them, and
                   ``reverse`` times that from b to a (recency-weighted pairwise rules)
``cooccurrence``   how many users have both (ItemKNN: Sarwar et al., "Item-based collaborative filtering recommendation
                   algorithms", WWW 2001)

Counts become weights by M[a, b] / ((sum of row a + shrinkage) (interactions of b + 1)^popularity), for ``cooccurrence``
by the cosine M[a, b] / sqrt(users of a x users of b). Of each item the ``neighbors`` largest weights are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.dataset import ranges
from rearec.errors import UserError, in_one_line
from rearec.fields import checked_values, documented, setting
from rearec.files import open_aside

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["GraphOptions", "ItemGraph", "RowScores"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
GraphKind = Literal["transitions", "cooccurrence"]

# Pairs that are counted at a time.
PAIRS = 1 << 24
# Weights are summed as integers, which have one sum in whatever order.
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
        ValueError: window: got 0, expected an integer of 1 or more
    """

    kind: GraphKind = setting("What counts as an edge.", default="transitions")
    window: int = setting("Places between two items at most; of cooccurrence: items of a user.", default=4, at_least=1)
    decay: float = setting("Of the weight, for each place more.", default=0.6, above=0)
    reverse: float = setting("Share at which a transition counts backwards.", default=0.5, at_least=0)
    shrinkage: float = setting("Added to the sum of an item's transitions.", default=1.0, at_least=0)
    popularity: float = setting("Exponent of the popularity that weights are divided by.", default=0.3, at_least=0)
    neighbors: int = setting("Kept of each item.", default=100, at_least=1)

    def __post_init__(self) -> None:
        for name, value in checked_values(self).items():
            object.__setattr__(self, name, value)


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
        count = dataset.train_item_counts()
        source, neighbor, weight = _counted(dataset, options)
        if options.kind == "cooccurrence":
            users = dataset.train_users_by_item()[1].astype(np.float64)
            value = weight / np.sqrt(users[source] * users[neighbor])
        else:
            total = np.bincount(source, weight, minlength=dataset.num_items) + options.shrinkage
            value = weight / (total[source] * (count[neighbor] + 1.0) ** options.popularity)
        value = value.astype(np.float32)
        order = np.lexsort((neighbor, -value, source))
        source, neighbor, value = source[order], neighbor[order], value[order]
        degree = np.bincount(source, minlength=dataset.num_items)
        first = np.cumsum(degree) - degree
        kept = np.arange(len(source)) - first[source] < options.neighbors
        offsets = np.concatenate(([0], np.cumsum(np.minimum(degree, options.neighbors)))).astype(np.int64)
        return cls(offsets, neighbor[kept].astype(np.int32), value[kept], options, dataset.fingerprint)

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

        offsets: int64 [R + 1]; items: the histories one after the other, oldest first, as many as offsets say.
        last: how many of the last items count.
        """
        length = np.diff(offsets)
        used = np.minimum(length, last)
        place = ranges(np.asarray(offsets)[1:] - used, used)
        back = np.repeat(np.asarray(offsets)[1:], used) - 1 - place
        source = np.asarray(items)[place]
        degree = self.offsets[source + 1] - self.offsets[source]
        edge = ranges(self.offsets[source], degree)
        row = np.repeat(np.repeat(np.arange(len(length)), used), degree)
        key, inverse = np.unique(row * self.num_items + self.neighbors[edge], return_inverse=True)
        value = self.weights[edge] * np.repeat(decay ** back.astype(np.float64), degree)
        sums = np.bincount(inverse, value, minlength=len(key))
        bounds = np.searchsorted(key, np.arange(len(length) + 1) * self.num_items)
        return RowScores(bounds, key % self.num_items, sums)


def _counted(dataset: SequenceDataset, options: GraphOptions) -> tuple[IntArray, IntArray, FloatArray]:
    """Source, neighbour and summed weight of every edge, sorted by source and neighbour."""
    parts = [_summed(pl.concat(block)) for block in _blocks(_pairs(dataset, options))]
    edges = _summed(pl.concat(parts)) if parts else pl.DataFrame(schema={"key": pl.Int64, "weight": pl.Int64})
    key = edges["key"].to_numpy()
    return key // dataset.num_items, key % dataset.num_items, edges["weight"].to_numpy() / UNIT


def _summed(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.group_by("key").agg(pl.col("weight").sum()).sort("key")


def _blocks(frames: Iterator[pl.DataFrame]) -> Iterator[list[pl.DataFrame]]:
    """The frames, as many at a time as hold `PAIRS` pairs."""
    block: list[pl.DataFrame] = []
    for frame in frames:
        block.append(frame)
        if sum(map(len, block)) >= PAIRS:
            yield block
            block = []
    if block:
        yield block


def _pairs(dataset: SequenceDataset, options: GraphOptions) -> Iterator[pl.DataFrame]:
    """Keys source * N + neighbour and integer weights, some pairs at a time."""
    items, later = np.asarray(dataset.items).astype(np.int64), dataset.training_interactions()
    sequence = np.repeat(np.arange(dataset.num_sequences), np.diff(dataset.offsets))
    alike = options.kind == "cooccurrence"
    first_time = later & _first_of_sequence(sequence, items, dataset.num_items) if alike else later
    for gap in range(1, min(options.window, int(np.diff(dataset.offsets).max(initial=0)) - 1) + 1):
        weight = UNIT if alike else round(options.decay ** (gap - 1) * UNIT)
        back = weight if alike else round(options.reverse * weight)
        for begin in range(gap, len(items), PAIRS):
            here = np.arange(begin, min(begin + PAIRS, len(items)))
            here = here[first_time[here] & (sequence[here] == sequence[here - gap])]
            if alike:
                here = here[first_time[here - gap]]
            before, after = items[here - gap], items[here]
            different = before != after
            before, after = before[different], after[different]
            for source, neighbor, one in ((before, after, weight), (after, before, back)):
                if one and len(source):
                    key = pl.Series("key", source * dataset.num_items + neighbor)
                    yield pl.DataFrame([key, pl.repeat(one, len(key), dtype=pl.Int64, eager=True).alias("weight")])


def _first_of_sequence(sequence: IntArray, items: IntArray, num_items: int) -> NDArray[np.bool_]:
    """bool [total]: the item stands here in its sequence for the first time."""
    first = np.zeros(len(items), dtype=bool)
    first[np.unique(sequence * num_items + items, return_index=True)[1]] = True
    return first

"""Weighted item-to-item graphs of the training part of a dataset: which item tends to follow which.

Nothing of valid or test rows enters: a pair counts where its later item is a training interaction (see
`SequenceDataset.training_interactions`).

``transitions``    item b up to ``window`` places behind a counts ``decay`` to the power of the places between them, and
                   ``reverse`` times that from b to a (recency-weighted pairwise rules)
``cooccurrence``   how many users have both, among ``window`` of a user's items in the order of their first occurrence
                   (ItemKNN: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001)
``swing``          how many pairs of users have both, those less who have much in common (`item_graph.swing`)

Counts become weights by M[a, b] / ((sum of row a + shrinkage) (interactions of b + 1)^popularity), for ``cooccurrence``
by the cosine M[a, b] / sqrt(users of a x users of b). Of each item the ``neighbors`` largest weights are kept, ties by
lower neighbour; an item is no neighbour of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rearec.data.item_graph.counts import Lists, counted
from rearec.data.item_graph.options import GraphOptions
from rearec.data.item_graph.scores import RowScores, summed_scores
from rearec.errors import UserError, in_one_line
from rearec.files import open_aside

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["ItemGraph"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


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
        return cls.by_shrinkage(dataset, options, [options.shrinkage])[0]

    @classmethod
    def by_shrinkage(
        cls, dataset: SequenceDataset, options: GraphOptions, shrinkages: Sequence[float]
    ) -> list[ItemGraph]:
        """Graphs that differ in nothing but their shrinkage, one or more, counted once.

        Each is what `of` counts with that shrinkage, as it divides all weights of an item alike: all have the same
        edges, in the same order. (Which of two stands first that differ by a rounding alone, the largest one says.)
        """
        each = [replace(options, shrinkage=shrinkage) for shrinkage in shrinkages]
        most = replace(options, shrinkage=max(shrinkages))
        lists, num_items = Lists.of(dataset, options), dataset.num_items
        users, interactions = np.bincount(lists.items, minlength=num_items), dataset.train_item_counts()
        degree = np.zeros(num_items, dtype=np.int64)
        neighbors = [np.empty(0, np.int32)]
        weights = [[np.empty(0, np.float32)] for _ in each]
        for source, neighbor, summed in counted(lists, num_items, options):
            of_edges: FloatArray = np.bincount(source, summed, minlength=num_items)  # type: ignore[assignment]
            totals = _Totals(users, interactions, of_edges)
            value = totals.weights(most, source, neighbor, summed)
            # stable, so that ties stay in the order of their neighbours
            order = np.lexsort((-value, source))
            place = np.arange(len(source)) - np.searchsorted(source, source)
            kept = order[(place < options.neighbors) & (value[order] > 0)]
            source, neighbor, summed = source[kept], neighbor[kept], summed[kept]
            degree += np.bincount(source, minlength=num_items)
            neighbors.append(neighbor.astype(np.int32))
            for found, own in zip(weights, each, strict=True):
                found.append(totals.weights(own, source, neighbor, summed))
        offsets, items = np.concatenate(([0], np.cumsum(degree))), np.concatenate(neighbors)
        return [
            cls(offsets, items, np.concatenate(found), own, dataset.fingerprint)
            for found, own in zip(weights, each, strict=True)
        ]

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
        return summed_scores(self.offsets, self.neighbors, self.weights, offsets, items, last=last, decays=decays)


class _Totals(NamedTuple):
    """What sums of edges are set against: of each item its users, its training interactions, the sum of its edges."""

    users: IntArray
    interactions: IntArray
    edges: FloatArray

    def weights(
        self, options: GraphOptions, source: IntArray, neighbor: IntArray, summed: FloatArray
    ) -> NDArray[np.float32]:
        """float32 [E], the weights of edges with these sums."""
        if options.kind == "cooccurrence":
            users = self.users.astype(np.float64)
            exact = summed / np.sqrt(users[source] * users[neighbor])
        else:
            total, popularity = self.edges + options.shrinkage, (self.interactions + 1.0) ** options.popularity
            exact = summed / (total[source] * popularity[neighbor])
        return exact.astype(np.float32)

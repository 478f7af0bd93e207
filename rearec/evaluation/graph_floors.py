"""The floors that score by an item graph: the items of the same users, and weighted pairwise rules.

``itemknn``  the cosines (`rearec.data.item_graph`, kind ``cooccurrence``, within 50 items of a user) to all items of
             the history, added up
``rules``    the transitions from the last 8 items of the history, each place back counting less; how much less, and how
             transitions are counted, is chosen by NDCG@20 on at most 5,000 validation rows

The rules are those of Ludewig and Jannach ("Evaluation of session-based recommendation algorithms", UMUAI 2018) with a
decay of the history and a correction for popularity.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.item_graph import GraphOptions, ItemGraph, RowScores
from rearec.evaluation.metrics import row_metrics
from rearec.evaluation.row_scores import row_ranks
from rearec.evaluation.seen import RowHistories

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["GraphFloor", "fit_rules", "item_knn", "seen_pairs", "some_rows"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Edges that are looked at at a time, and rows.
EDGES, ROWS = 1 << 19, 4096
# Items of a history that rules look at; validation rows that they are chosen by.
LAST, MOST_ROWS = 8, 5_000
METRIC = "ndcg@20"
# Graphs and decays of the history to choose from, the defaults first.
GRAPHS = (
    GraphOptions(window=4, decay=0.6, reverse=0.5, popularity=0.0),
    GraphOptions(window=8, decay=0.8, reverse=0.5, popularity=0.0),
    GraphOptions(window=4, decay=0.6, reverse=0.0, popularity=0.0),
    GraphOptions(window=1, reverse=0.0, popularity=0.0),
)
DECAYS = (0.5, 0.3, 0.7, 0.1)


@dataclass(frozen=True)
class GraphFloor:
    """A floor that adds up the edges from the last items of a history, each place back counting ``decay`` times less.

    settings: what was chosen, as json can hold it.
    """

    graph: ItemGraph
    last: int
    decay: float
    settings: Mapping[str, Any] = field(default_factory=dict)

    def scores(
        self, histories: RowHistories, rows: IntArray
    ) -> Iterator[tuple[IntArray, IntArray, IntArray, RowScores]]:
        """Some of the rows at a time: int64 [n], offsets and items of their histories, their scores."""
        for some, offsets, items in some_rows(self.graph, histories, rows, self.last):
            yield some, offsets, items, self.graph.scores(offsets, items, last=self.last, decay=self.decay)


def item_knn(dataset: SequenceDataset) -> GraphFloor:
    """The floor ``itemknn`` of a dataset."""
    graph = ItemGraph.of(dataset, kind="cooccurrence", window=50)
    return GraphFloor(graph, last=max(1, len(dataset.items)), decay=1.0)


def fit_rules(dataset: SequenceDataset, *, exclude_seen: bool) -> GraphFloor:
    """The floor ``rules`` of a dataset: the graph and decay that are best on the validation rows, ties to the earlier.

    Without validation rows these are the first. At most `MOST_ROWS` of them are looked at, evenly spaced.

    exclude_seen: whether the items of a row's history are left out.
    """
    target, popularity = dataset.targets("valid"), dataset.train_item_counts()
    count = min(len(target), MOST_ROWS)
    rows = np.arange(count) * len(target) // max(1, count)
    histories = RowHistories(dataset, "valid")
    best: tuple[float, GraphFloor] | None = None
    for options in GRAPHS if count else GRAPHS[:1]:
        graph = ItemGraph.of(dataset, options)
        gains = np.zeros(len(DECAYS))
        for some, offsets, items in some_rows(graph, histories, rows, LAST):
            seen = seen_pairs(offsets, items, target[some], dataset.num_items) if exclude_seen else None
            for place, scores in enumerate(graph.scores_by_decay(offsets, items, last=LAST, decays=DECAYS)):
                ranks = row_ranks(scores, target[some], popularity, seen)
                gains[place] += row_metrics(ranks, [METRIC])[METRIC].sum()
        place = int(np.argmax(gains))
        if best is None or gains[place] > best[0]:
            settings = {**asdict(options), "last": LAST, "history_decay": DECAYS[place], "chosen_by_rows": count}
            best = gains[place], GraphFloor(graph, LAST, DECAYS[place], settings)
    assert best is not None
    return best[1]


def some_rows(
    graph: ItemGraph, histories: RowHistories, rows: IntArray, last: int
) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """As many rows at a time as have `EDGES` edges from their last items, with offsets and items of their histories."""
    most = max(1, int(np.diff(graph.offsets).max(initial=0)))
    edges = np.cumsum(np.minimum(histories.lengths(rows), last) * most + EDGES // ROWS)
    begin = 0
    while begin < len(rows):
        end = max(begin + 1, int(np.searchsorted(edges, (edges[begin - 1] if begin else 0) + EDGES, side="right")))
        yield rows[begin:end], *histories(rows[begin:end])
        begin = end


def seen_pairs(offsets: IntArray, items: IntArray, target: IntArray, num_items: int) -> tuple[IntArray, IntArray]:
    """(row, item) of what is in the histories of rows and is not their target, each pair once."""
    pairs = np.unique(np.repeat(np.arange(len(target)), np.diff(offsets)) * num_items + items)
    row, item = np.divmod(pairs, num_items)
    other = item != target[row]
    return row[other], item[other]

"""The floors a sequence model has to beat: popularity, a Markov chain, items of the same users, weighted rules.

All are counted from the training data (`rearec.evaluation.graph_floors` says what of the validation rows is looked at)
and ranked by the rule of the evaluation: items scored above the target plus half of the ties, the target itself left
out, and the items of the history where they are to be. Items of one score stand by popularity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.graph_floors import GraphFloor, fit_rules, item_knn, seen_pairs
from rearec.evaluation.markov import MarkovChain, last_items
from rearec.evaluation.popularity import popularity_order, popularity_ranks
from rearec.evaluation.row_scores import first_items, row_lists, row_ranks
from rearec.evaluation.seen import RowHistories
from rearec.report.floors import FLOORS as LOOKS

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.data.words import SplitName

__all__ = ["FLOORS", "baseline_lists", "baseline_ranks", "floor_settings"]

# As results name them: popularity, markov, itemknn, rules.
FLOORS = tuple(LOOKS)

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Rows whose histories are looked at at a time.
CHUNK = 4096
# Fitted floors that are remembered, the latest of them.
REMEMBERED = 4


def baseline_ranks(dataset: SequenceDataset, split: SplitName, *, exclude_seen: bool) -> dict[str, FloatArray]:
    """Ranks of all floors for every row of a split, in the order of ``dataset.rows(split)``.

    exclude_seen: whether the items of a row's history are left out; its target never is.

    Returns:
        for each of `FLOORS` float64 [R]
    """
    fitted = _fitted(dataset, exclude_seen)
    popularity, markov = fitted.popularity, fitted.markov
    target, last = dataset.targets(split), last_items(dataset, split)
    ranks = {"popularity": popularity_ranks(popularity, target), "markov": markov.ranks(last, target)}
    histories = RowHistories(dataset, split)
    if exclude_seen:
        for rows in _chunks(len(target)):
            place, item = seen_pairs(*histories(rows), target[rows], dataset.num_items)
            row = rows[place]
            own = target[row]
            _leave_out(ranks["popularity"], row, popularity[item], popularity[own])
            _leave_out(ranks["markov"], row, markov.scores(last[row], item), markov.scores(last[row], own))
    for name, floor in fitted.graphs.items():
        ranks[name] = np.empty(len(target))
        for rows, offsets, items, scores in floor.scores(histories, np.arange(len(target))):
            seen = seen_pairs(offsets, items, target[rows], dataset.num_items) if exclude_seen else None
            ranks[name][rows] = row_ranks(scores, target[rows], popularity, seen)
    return ranks


def baseline_lists(
    dataset: SequenceDataset, split: SplitName, k: int, *, exclude_seen: bool
) -> Iterator[tuple[str, IntArray, IntArray]]:
    """The first k items of all floors for every row of a split, ties by lower item.

    exclude_seen: whether the items of a row's history are left out.

    Yields:
        (one of `FLOORS`, int64 [n] rows, int64 [n, k] items, -1 where a row has fewer), for some rows at a time.
    """
    fitted = _fitted(dataset, exclude_seen)
    order = popularity_order(fitted.popularity).tolist()
    last, histories = last_items(dataset, split), RowHistories(dataset, split)

    def barred(offsets: IntArray, seen: IntArray) -> list[set[int]]:
        return [set(items.tolist()) if exclude_seen else set() for items in np.split(seen, offsets[1:-1])]

    for rows in _chunks(len(last)):
        out = barred(*histories(rows))
        yield "popularity", rows, np.array([first_items(k, order, items) for items in out])
        rankings = (chain(fitted.markov.followers(source).tolist(), order) for source in last[rows].tolist())
        yield "markov", rows, np.array([first_items(k, *both) for both in zip(rankings, out, strict=True)])
    for name, floor in fitted.graphs.items():
        for rows, offsets, items, scores in floor.scores(histories, np.arange(len(last))):
            yield name, rows, row_lists(scores, fitted.popularity, k, barred(offsets, items))


def floor_settings(dataset: SequenceDataset, *, exclude_seen: bool) -> dict[str, dict[str, Any]]:
    """What was chosen on the validation rows, by floor: plain values of those that choose anything."""
    graphs = _fitted(dataset, exclude_seen).graphs
    return {name: dict(floor.settings) for name, floor in graphs.items() if floor.settings}


class _Fitted(NamedTuple):
    """The floors of a dataset; popularity: int64 [N]."""

    popularity: IntArray
    markov: MarkovChain
    graphs: dict[str, GraphFloor]


_remembered: dict[tuple[str, bool | None], Any] = {}


def _remember(key: tuple[str, bool | None], make: Callable[[], Any]) -> Any:
    """What was made for a dataset's fingerprint, of the latest few: several calls ask for the floors of one dataset."""
    made = _remembered.pop(key, None)
    if made is None:
        made = make()
    _remembered[key] = made
    for oldest in list(_remembered)[:-REMEMBERED]:
        _remembered.pop(oldest, None)
    return made


def _fitted(dataset: SequenceDataset, exclude_seen: bool) -> _Fitted:
    def counted() -> tuple[IntArray, MarkovChain, GraphFloor]:
        popularity = dataset.train_item_counts()
        chain = MarkovChain(last_items(dataset, "train"), dataset.targets("train"), popularity)
        return popularity, chain, item_knn(dataset)

    popularity, markov, knn = _remember((dataset.fingerprint, None), counted)
    rules = _remember((dataset.fingerprint, exclude_seen), lambda: fit_rules(dataset, exclude_seen=exclude_seen))
    return _Fitted(popularity, markov, {"itemknn": knn, "rules": rules})


def _chunks(rows: int) -> Iterator[IntArray]:
    for begin in range(0, rows, CHUNK):
        yield np.arange(begin, min(begin + CHUNK, rows))


def _leave_out(ranks: FloatArray, row: IntArray, seen: IntArray, target: IntArray) -> None:
    """Take seen items out of the ranks of their rows, by the scores of both and of the rows' targets."""
    np.subtract.at(ranks, row, (seen > target) + 0.5 * (seen == target))

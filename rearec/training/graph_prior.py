"""How much the item graph shall add to a model's scores, chosen by NDCG@20 on validation rows (`rearec.models.prior`).

The rows are encoded once. What a choice of numbers gains is then told by few items of each row, its candidates: the
model's own best 20, and those that the graph links with the history. As no bonus is below 0, an item that is neither
stands behind all of the best 20 whatever the choice. Where it is above the target, so are these, and the row counts 0
with it or without it; so NDCG@20 among the candidates is that among all items, but for ties with the 20th. For the same
reason a row counts 0 whatever the choice where its target is neither: few rows are left to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.item_graph import GraphOptions, ItemGraph, RowScores
from rearec.engine.retrieval import pair_scores
from rearec.evaluation.graph_floors import seen_pairs, some_rows
from rearec.evaluation.metrics import row_metrics
from rearec.evaluation.ranking import BatchRanker, check_items, check_scores, evaluation_batches
from rearec.evaluation.seen import RowHistories, seen_items
from rearec.models.prior import GraphPrior, PriorSettings, unit_bonus
from rearec.reasoning import ReaRec

__all__ = ["GRAPHS", "fit_prior"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

METRIC, CUTOFF = "ndcg@20", 20
# What is chosen from, the numbers to start with first.
SHRINKAGES = (10.0, 1.0, 50.0, 250.0)
# How the graph is counted: what rows of other data chose more often than not, and from one item to the very next alone.
GRAPHS = (
    GraphOptions(window=8, decay=0.8, reverse=0.5, popularity=0.0, shrinkage=SHRINKAGES[0]),
    GraphOptions(window=1, reverse=0.0, popularity=0.0, shrinkage=SHRINKAGES[0]),
)
LAST = 20
DECAYS = (0.85, 0.7, 0.95, 0.5, 0.3, 0.01)
# By what share a graph or decay other than the first has to be better: which of nearly equal ones is better on some
# rows says little of others.
MARGIN = 0.01
SCALES = (0.001, 0.0001, 0.01, 0.1)
# 0 is no prior: ties leave it so.
WEIGHTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)


def fit_prior(
    model: ReaRec,
    dataset: SequenceDataset,
    *,
    exclude_seen: bool | None = None,
    max_rows: int = 10_000,
    batch_rows: int = 512,
) -> GraphPrior | None:
    """The graph prior of a trained model: ``model.prior = fit_prior(model, dataset)``; always the same for the same.

    Scale and weight of the bonus, the decay of the history and the way of counting the graph are chosen together, other
    decays and graphs than the usual ones where they make NDCG@20 better by 1 %; then scale and weight again for each
    shrinkage of the graph's weights. `GraphPrior.fit` tells NDCG@20 of the rows without it (``valid_without``) and with
    it (``valid``), and how many these were (``rows``). The model is left as it is; a prior that it has does not take
    part.

    Args:
        model: on the device to compute on.
        dataset: the one that it was trained on.
        exclude_seen: whether targets are ranked among the items that are not in their row's history; None: as the
            validation rows say (`rearec.evaluation.seen_items`).
        max_rows: how many of the validation rows with a history are looked at, evenly spaced.
        batch_rows: rows that are encoded at a time.

    Returns:
        None where nothing is gained: no weight makes NDCG@20 better, or there are no validation rows.

    Raises:
        UserError: the dataset has other items than the model knows, or its scores are no numbers.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> from rearec.training import fit_prior
        >>> dataset = generate(0, planted=Planted(users=200))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> model.prior = fit_prior(model, dataset)
        >>> model.prior.fit["valid"] > model.prior.fit["valid_without"]  # it has not been trained
        True
    """
    check_items(model, dataset)
    known = np.flatnonzero(np.asarray(dataset.rows("valid"))[:, 1] > 0)
    count = min(len(known), max_rows)
    if not count:
        return None
    rows = known[np.arange(count) * len(known) // count]
    encoded = _Encoded(model, dataset, rows, seen_items(dataset, exclude_seen).exclude, batch_rows)
    counted = [ItemGraph.by_shrinkage(dataset, options, SHRINKAGES) for options in GRAPHS]
    gains = np.stack([encoded.gains(graphs[:1], DECAYS)[0] for graphs in counted])
    without, usual, best = gains[0, 0, 0, 0], gains[0, 0].max(), gains.max()
    kind = decay = 0
    if best > (1 + MARGIN) * usual:
        kind, decay, *_ = _best(gains)
    graphs, best = counted[kind], gains[kind, decay].max()
    scale, weight = _best(gains[kind, decay])
    graph = graphs[0]
    gains = encoded.gains(graphs[1:], DECAYS[decay : decay + 1])[:, 0]
    if gains.max() > best:
        best = gains.max()
        shrinkage, scale, weight = _best(gains)
        graph = graphs[1 + shrinkage]
    if best <= without:
        return None
    settings = PriorSettings(last=LAST, decay=DECAYS[decay], scale=SCALES[scale], weight=WEIGHTS[weight])
    return GraphPrior(
        graph,
        settings,
        method=model.config.method,
        steps=model.config.steps,
        temperature=model.config.temperature,
        fit={"valid_without": float(without), "valid": float(best), "rows": count},
    )


def _best(gains: FloatArray) -> tuple[int, ...]:
    """The place of the largest number, of equal ones the first."""
    return tuple(int(place) for place in np.unravel_index(gains.argmax(), gains.shape))


class _Encoded:
    """Validation rows as a model answers them: their final states and their best items, in the order of ``rows``."""

    def __init__(self, model: ReaRec, dataset: SequenceDataset, rows: IntArray, exclude: bool, batch_rows: int) -> None:
        self._rows, self._exclude = rows, exclude
        self._histories = RowHistories(dataset, "valid")
        self._target = dataset.targets("valid", rows)
        self._temperature, self._num_items = model.config.temperature, dataset.num_items
        self._hidden = torch.empty(len(rows), model.config.dim)
        self._best = np.empty((len(rows), min(CUTOFF, dataset.num_items)), dtype=np.int64)
        split_rows = {**dataset.split_rows, "valid": np.asarray(dataset.rows("valid"))[rows]}
        some = replace(dataset, split_rows=split_rows)
        ranker = BatchRanker(model, seen=RowHistories(some, "valid") if exclude else None)
        with torch.inference_mode():
            for batch in evaluation_batches(model, some, "valid", batch_rows):
                assert batch.row is not None
                hidden = ranker.states(batch)[0]
                self._hidden[batch.row] = hidden.float().cpu()
                self._best[batch.row.numpy()] = ranker.top(hidden, batch, self._best.shape[1])
        self._weight = ranker.engine.weight.float().cpu()
        check_scores(self._hidden.numpy())
        # whether the model has the target among its best, or not so many to rank
        last = self._best[:, -1]
        level = self._scores(slice(None), np.arange(len(rows)), np.maximum(last, 0))
        of_target = self._scores(slice(None), np.arange(len(rows)), self._target)
        self._is_among_best = (of_target >= level) | (last < 0)

    def gains(self, graphs: Sequence[ItemGraph], decays: Sequence[float]) -> FloatArray:
        """float64 [graphs, decays, scales, weights]: NDCG@20 of the rows with each choice.

        graphs: one or more, of the same edges; only their weights differ.
        """
        summed = np.zeros((len(graphs), len(decays), len(SCALES), len(WEIGHTS)))
        begin = 0
        for some, offsets, items in some_rows(graphs[0], self._histories, self._rows, LAST):
            here = slice(begin, begin + len(some))
            begin += len(some)
            seen = np.empty(0, np.int64)
            if self._exclude:
                row, item = seen_pairs(offsets, items, self._target[here], self._num_items)
                seen = row * self._num_items + item
            candidates = None
            for i, graph in enumerate(graphs):
                for j, scores in enumerate(graph.scores_by_decay(offsets, items, last=LAST, decays=decays)):
                    candidates = candidates or self._candidates(here, scores, seen)
                    summed[i, j] += candidates.gains(scores.scores, self._temperature)
        return summed / len(self._rows)

    def _candidates(self, here: slice, linked: RowScores, seen: IntArray) -> _Candidates:
        """Of some rows, those that can add anything. seen: row * N + item of what they do not rank."""
        target, best, num_items = self._target[here], self._best[here], self._num_items
        of_entry = linked.rows
        mine = linked.items == target[of_entry]
        # only rows whose target is a candidate
        counts = self._is_among_best[here].copy()
        counts[of_entry[mine]] = True
        rows = np.arange(len(target))
        of_target = np.full(len(target), -1)
        of_target[of_entry[mine]] = np.flatnonzero(mine)
        key = of_entry * num_items + linked.items
        rivals = np.flatnonzero(counts[of_entry] & ~mine & ~np.isin(key, seen, assume_unique=True))
        own = rows[:, None] * num_items + best
        own = own[(best >= 0) & counts[:, None] & (best != target[:, None])]
        others = np.setdiff1d(own, key[rivals], assume_unique=True)
        row, item = np.divmod(np.concatenate([key[rivals], others]), num_items)
        number = np.cumsum(counts) - 1
        return _Candidates(
            row=number[row],
            model=self._scores(here, row, item),
            linked=rivals,
            of_targets=self._scores(here, rows[counts], target[counts]),
            linked_targets=of_target[counts],
        )

    def _scores(self, here: slice, row: IntArray, item: IntArray) -> NDArray[np.float32]:
        """float32 [E], the model's of some rows, counted from the first of them, and items."""
        pairs = torch.from_numpy(row), torch.from_numpy(item)
        scores: NDArray[np.float32] = pair_scores(self._hidden[here], self._weight, *pairs).numpy()
        return scores


@dataclass(frozen=True)
class _Candidates:
    """Some rows whose targets may come among the first, and the items that compete with them.

    row: int64 [C], which of the rows each competitor belongs to; model: float32 [C], what the model gives it.
    linked: int64 [L], of the first L of them the places among what the graph links; the others it does not link.
    of_targets: float32 [R], what the model gives the targets; linked_targets: int64 [R], their places, -1 without one.
    """

    row: IntArray
    model: NDArray[np.float32]
    linked: IntArray
    of_targets: NDArray[np.float32]
    linked_targets: IntArray

    def gains(self, graph: FloatArray, temperature: float) -> FloatArray:
        """float64 [scales, weights]: the sum over the rows. graph: what it gives to all that it links."""
        count, end = len(self.of_targets), len(self.linked)
        of_target = np.where(self.linked_targets < 0, 0.0, np.append(graph, 0.0)[self.linked_targets])
        given, fused = graph[self.linked], self.model.copy()
        summed = np.empty((len(SCALES), len(WEIGHTS)))
        for i, scale in enumerate(SCALES):
            added, of_own = (unit_bonus(values, temperature, scale) for values in (given, of_target))
            for j, weight in enumerate(WEIGHTS):
                np.add(self.model[:end], (weight * added).astype(np.float32), out=fused[:end])
                level = (self.of_targets + (weight * of_own).astype(np.float32))[self.row]
                above, level_with = (self.row[where] for where in (fused > level, fused == level))
                ranks = np.bincount(above, minlength=count) + 0.5 * np.bincount(level_with, minlength=count)
                summed[i, j] = row_metrics(ranks, [METRIC])[METRIC].sum()
        return summed

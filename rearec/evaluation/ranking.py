"""The rank of every row's target by a model over the full catalogue: never a [rows, items] matrix of scores.

One relevant item per row. The rank is the number of items scored above the target plus half of those scored equal;
seen items are among them or not (`rearec.evaluation.seen`). Scores are those of the state that the method answers with,
and, of a model that has one, its graph prior (`rearec.models.prior`); states taken alone go without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec.data.batch import Batch
from rearec.data.batches import PairBatches
from rearec.data.dataset import SequenceDataset
from rearec.data.item_graph import RowScores
from rearec.data.words import SPLIT_NAMES, Pairing, SplitName
from rearec.distributed import added, dealt, processes
from rearec.engine import Engine
from rearec.engine.retrieval import rank, top
from rearec.engine.words import StatePrecision
from rearec.errors import UserError
from rearec.evaluation.popularity import popularity_order, popularity_ranks
from rearec.evaluation.seen import RowHistories, seen_items
from rearec.evaluation.top_lists import TopLists
from rearec.reasoning import ReaRec

__all__ = [
    "BatchRanker",
    "RankedRows",
    "check_items",
    "check_scores",
    "check_split",
    "evaluation_batches",
    "rank_rows",
    "ranks_with_prior",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class BatchRanker:
    """Ranks the targets of batches, on whatever device, against the whole catalogue.

    It takes an `Engine` of the model when it is made: make another one after training.

    Args:
        model: on the device to compute on.
        steps: reasoning steps, None for as many as the model was trained for.
        seen: the histories of the split that the batches are of, to leave their items out; None to keep them.
        histories: the same, for the model's graph prior to score with; None to rank without it.
        precision: of the states, as `Engine` takes it.

    Attributes:
        is_collective: whether several processes hold the item table: all of them have to rank batches together.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> ranker = rearec.evaluation.BatchRanker(model)
        >>> batch = rearec.evaluation.evaluation_batches(model, dataset, "test", batch_rows=32)[0]
        >>> ranker.final(batch).shape
        (32,)
    """

    def __init__(
        self,
        model: ReaRec,
        steps: int | None = None,
        *,
        seen: RowHistories | None = None,
        histories: RowHistories | None = None,
        precision: StatePrecision = "fp32",
    ) -> None:
        self.engine = Engine(model, precision=precision)
        self.is_collective = self.engine.is_collective
        self.steps = steps
        self.seen = seen
        self.histories = histories

    def states(self, batch: Batch) -> list[Tensor]:
        """[R, d] each: the state that the method answers with, then h_0..h_K."""
        states = self.engine(batch, self.steps).states
        return [self.engine.model.final_state(states), *states.unbind(dim=1)]

    def bonus(self, batch: Batch) -> RowScores | None:
        """What the graph prior adds to the scores of each row's items; None where the ranks go without it."""
        return None if self.histories is None else self.engine.bonus(*self.histories(_rows(batch)), self.steps)

    def final(self, batch: Batch) -> FloatArray:
        """float64 [R], the rank of each row's target by the state that the method answers with, and the prior."""
        return self.ranks(self.states(batch)[0], batch, self.bonus(batch))

    def ranks(self, hidden: Tensor, batch: Batch, bonus: RowScores | None = None) -> FloatArray:
        """float64 [R], the rank of each row's target by one state, and a bonus of some items."""
        target = batch.target.to(hidden.device, non_blocking=True)
        ranks = rank(hidden, self.engine.catalog, target, exclude=self._exclude(hidden, batch), bonus=bonus)
        return ranks.double().cpu().numpy()

    def top(self, hidden: Tensor, batch: Batch, k: int, bonus: RowScores | None = None) -> IntArray:
        """int64 [R, k], the first k items by one state, and a bonus of some; -1 where there are fewer."""
        exclude = self._exclude(hidden, batch)
        return top(hidden, self.engine.catalog, k, exclude=exclude, bonus=bonus)[1].cpu().numpy()

    def _exclude(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if self.seen is None:
            return None
        offsets, items = self.seen(_rows(batch))
        return torch.from_numpy(offsets).to(hidden.device), torch.from_numpy(items).to(hidden.device)


@dataclass(frozen=True)
class RankedRows:
    """The rank of every row of a split, in the order of ``dataset.rows(split)``.

    final: float64 [R]. by_step: float64 [R, K + 1], ranks by each state alone, or None where it was not asked for.
    empty_history_rows: how many rows have no history; they are ranked by popularity.
    without_prior: float64 [R], what ``final`` is without the model's graph prior; None where it goes without.

    Examples:
        >>> import numpy as np
        >>> from rearec.evaluation import RankedRows
        >>> ranked = RankedRows(final=np.array([0.0, 12.0, 3.5]), by_step=None, empty_history_rows=0)
        >>> float((ranked.final < 10).mean())  # Recall@10
        0.6666666666666666
    """

    final: FloatArray
    by_step: FloatArray | None
    empty_history_rows: int
    without_prior: FloatArray | None = None


def check_split(dataset: SequenceDataset, split: str) -> None:
    """UserError unless the dataset has rows of that split."""
    if split not in SPLIT_NAMES:
        raise UserError(f"split: got {split!r}, expected train, valid or test")
    if not len(dataset.rows(split)):
        raise UserError(f"the dataset has no {split} rows to evaluate on")


def check_items(model: ReaRec, dataset: SequenceDataset) -> None:
    """UserError unless the model knows as many items as the dataset has."""
    if dataset.num_items != model.config.num_items:
        raise UserError(f"the model knows {model.config.num_items} items, the dataset has {dataset.num_items}")


def check_scores(found: NDArray[np.floating]) -> None:
    """UserError where a model's scores, or what was made of them, are no numbers."""
    if np.isnan(found).any():
        raise UserError("the model's scores are no finite numbers: its weights are too large")


def evaluation_batches(model: ReaRec, dataset: SequenceDataset, split: SplitName, batch_rows: int) -> PairBatches:
    """The rows of a split in a fixed order, paired as the model's backbone encodes them best.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> batches = rearec.evaluation.evaluation_batches(model, dataset, "test", batch_rows=32)
        >>> [batch.num_rows for batch in batches]
        [32, 18]
    """
    pairing: Pairing = "shared" if model.backbone.shares_windows else "separate"
    return PairBatches(dataset, split, batch_rows=batch_rows, max_len=model.config.max_len, pairing=pairing)


def ranks_with_prior(
    model: ReaRec, dataset: SequenceDataset, steps: int | None = None, prior: bool | None = None
) -> bool:
    """Whether targets are ranked with the model's graph prior: where it has one that was fitted for so many steps.

    prior: True and False say so; with True it has to have one. None: as the model has.

    Raises UserError where it has none, or none that fits, or one whose graph was counted in other data.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.evaluation.ranking import ranks_with_prior
        >>> from rearec.models import ReaRecConfig
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> ranks_with_prior(rearec.ReaRec(ReaRecConfig(dataset.num_items, dim=8)), dataset)
        False
    """
    of_model, steps = model.prior, model.number_of_steps(steps)
    if prior is False or (prior is None and of_model is None):
        return False
    if of_model is None:
        raise UserError(
            "prior: the model has no graph prior; 'rearec prior RUN' fits one, in Python "
            "model.prior = rearec.training.fit_prior(model, dataset)"
        )
    if not of_model.serves(steps):
        if prior:
            raise UserError(f"prior: {of_model.left_out(steps)}")
        return False
    if of_model.graph.fingerprint != dataset.fingerprint:
        raise UserError(
            "prior: the graph of the model's prior was counted in other data than this dataset, or in another split "
            "of it; prior=False ranks without it"
        )
    return True


def rank_rows(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    steps: int | None = None,
    prior: bool | None = None,
    batch_rows: int = 512,
    per_step: bool = False,
    lists: TopLists | None = None,
    precision: StatePrecision = "fp32",
    progress: Callable[[int, int], None] | None = None,
) -> RankedRows:
    """Rank the target of every row of a split against the whole catalogue.

    Of the model as it is now, in evaluation mode and without gradients. Arguments and errors as in `evaluate`.

    In several processes (`rearec.distributed.joined`) each ranks some of the batches that one would, so that every
    process has the ranks of all rows, to the bit those of one process.

    lists: gets the first items of every row too: as state 0 those by the model's answer, with ``per_step`` as the
        states after it those by each state alone, and with a graph prior as the last one those without it.

    Examples:
        >>> import rearec
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.models import ReaRecConfig
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> model = rearec.ReaRec(ReaRecConfig(dataset.num_items, method="prl", dim=8, max_len=20))
        >>> ranked = rearec.evaluation.rank_rows(model, dataset, "test", per_step=True)
        >>> ranked.final.shape, ranked.by_step.shape
        ((50,), (50, 3))
    """
    check_split(dataset, split)
    check_items(model, dataset)
    exclude = seen_items(dataset, exclude_seen).exclude
    with_prior = ranks_with_prior(model, dataset, steps, prior)
    batches = evaluation_batches(model, dataset, split, batch_rows)
    taken = 2 + model.number_of_steps(steps) if per_step else 1
    states = taken + with_prior
    ranks = np.zeros((len(dataset.rows(split)), states))
    with torch.inference_mode():
        histories = RowHistories(dataset, split)
        ranker = BatchRanker(
            model,
            steps,
            seen=histories if exclude else None,
            histories=histories if with_prior else None,
            precision=precision,
        )
        group, done = processes(), 0
        for batch in batches if group.size == 1 else dealt(batches, group):
            is_own = batch is not None
            if batch is None:
                if not ranker.is_collective:
                    continue
                batch = batches[0]  # the others' ranks need this process: it ranks something, and forgets it
            rows = _rows(batch)
            final, *alone = ranker.states(batch)[:taken]
            ranked = [(final, ranker.bonus(batch)), *((hidden, None) for hidden in alone)]
            if with_prior:
                ranked.append((final, None))
            for state, (hidden, bonus) in enumerate(ranked):
                found = ranker.ranks(hidden, batch, bonus)
                shown = None if lists is None else ranker.top(hidden, batch, lists.k, bonus)
                if not is_own:
                    continue
                ranks[rows, state] = found
                if lists is not None and shown is not None:
                    lists.add(state, rows, shown)
            done += len(rows) * is_own
            if progress is not None:
                progress(min(done * group.size, batches.num_rows), batches.num_rows)
    # every row is one process's, zero in the others
    ranks = added(ranks)
    if lists is not None:
        lists.join()
    empty = batches.empty_history_rows
    if len(empty):
        popularity = dataset.train_item_counts()
        ranks[empty] = popularity_ranks(popularity, dataset.targets(split, empty))[:, None]
        if lists is not None:
            best = np.tile(popularity_order(popularity)[: lists.k], (len(empty), 1))
            for state in range(states):
                lists.add(state, empty, best)
    check_scores(ranks)
    return RankedRows(
        final=ranks[:, 0],
        by_step=ranks[:, 1:taken] if per_step else None,
        empty_history_rows=len(empty),
        without_prior=ranks[:, -1] if with_prior else None,
    )


def _rows(batch: Batch) -> IntArray:
    """int64 [R], which rows of their split a batch has."""
    assert batch.row is not None
    rows: IntArray = batch.row.cpu().numpy()
    return rows

"""The rank of every row's target by a model over the full catalogue: never a [rows, items] matrix of scores.

One relevant item per row. The rank is the number of items scored above the target plus half of those scored equal;
seen items are among them or not (`rearec.evaluation.seen`).
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
from rearec.data.words import SPLIT_NAMES, Pairing, SplitName
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.evaluation.floors import popularity_order, popularity_ranks
from rearec.evaluation.seen import RowHistories, seen_items
from rearec.evaluation.top_lists import TopLists
from rearec.reasoning import ReaRec
from rearec_kernels import catalog_rank, catalog_topk

__all__ = ["BatchRanker", "RankedRows", "check_split", "evaluation_batches", "rank_rows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class BatchRanker:
    """Ranks the targets of batches, on whatever device, against the whole catalogue.

    It takes an `Engine` of the model when it is made: make another one after training.

    Args:
        model: on the device to compute on.
        steps: reasoning steps, None for as many as the model was trained for.
        seen: the histories of the split that the batches are of, to leave their items out; None to keep them.

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

    def __init__(self, model: ReaRec, steps: int | None = None, *, seen: RowHistories | None = None) -> None:
        self.engine = Engine(model)
        self.steps = steps
        self.seen = seen

    def states(self, batch: Batch) -> list[Tensor]:
        """[R, d] each: the state that the method answers with, then h_0..h_K."""
        states = self.engine(batch, self.steps).states
        return [self.engine.model.final_state(states), *states.unbind(dim=1)]

    def final(self, batch: Batch) -> FloatArray:
        """float64 [R], the rank of each row's target by the state that the method answers with."""
        return self.ranks(self.states(batch)[0], batch)

    def ranks(self, hidden: Tensor, batch: Batch) -> FloatArray:
        """float64 [R], the rank of each row's target by one state."""
        target = batch.target.to(hidden.device, non_blocking=True)
        ranks = catalog_rank(hidden, self.engine.catalog, target, exclude=self._exclude(hidden, batch))
        return ranks.double().cpu().numpy()

    def top(self, hidden: Tensor, batch: Batch, k: int) -> IntArray:
        """int64 [R, k], the first k items by one state, -1 where there are fewer."""
        return catalog_topk(hidden, self.engine.catalog, k, exclude=self._exclude(hidden, batch))[1].cpu().numpy()

    def _exclude(self, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        if self.seen is None:
            return None
        assert batch.row is not None
        offsets, items = self.seen(batch.row.cpu().numpy())
        return torch.from_numpy(offsets).to(hidden.device), torch.from_numpy(items).to(hidden.device)


@dataclass(frozen=True)
class RankedRows:
    """The rank of every row of a split, in the order of ``dataset.rows(split)``.

    final: float64 [R]. by_step: float64 [R, K + 1], ranks by each state alone, or None where it was not asked for.
    empty_history_rows: how many rows have no history; they are ranked by popularity.

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


def check_split(dataset: SequenceDataset, split: str) -> None:
    """UserError unless the dataset has rows of that split."""
    if split not in SPLIT_NAMES:
        raise UserError(f"split: got {split!r}, expected train, valid or test")
    if not len(dataset.rows(split)):
        raise UserError(f"the dataset has no {split} rows to evaluate on")


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


def rank_rows(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    exclude_seen: bool | None = None,
    steps: int | None = None,
    batch_rows: int = 512,
    per_step: bool = False,
    lists: TopLists | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RankedRows:
    """Rank the target of every row of a split against the whole catalogue.

    Of the model as it is now, in evaluation mode and without gradients. Arguments and errors as in `evaluate`.

    lists: gets the first items of every row too: as state 0 those by the model's answer, with ``per_step`` as the
        states after it those by each state alone.

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
    if dataset.num_items != model.config.num_items:
        raise UserError(f"the model knows {model.config.num_items} items, the dataset has {dataset.num_items}")
    exclude = seen_items(dataset, exclude_seen).exclude
    batches = evaluation_batches(model, dataset, split, batch_rows)
    states = 2 + (model.config.steps if steps is None else steps) if per_step else 1
    ranks = np.empty((len(dataset.rows(split)), states))
    with torch.inference_mode():
        ranker = BatchRanker(model, steps, seen=RowHistories(dataset, split) if exclude else None)
        done = 0
        for batch in batches:
            assert batch.row is not None
            rows = batch.row.numpy()
            for state, hidden in enumerate(ranker.states(batch)[:states]):
                ranks[rows, state] = ranker.ranks(hidden, batch)
                if lists is not None:
                    lists.add(state, rows, ranker.top(hidden, batch, lists.k))
            done += len(rows)
            if progress is not None:
                progress(done, batches.num_rows)
    empty = batches.empty_history_rows
    if len(empty):
        popularity = dataset.train_item_counts()
        ranks[empty] = popularity_ranks(popularity, dataset.targets(split)[empty])[:, None]
        if lists is not None:
            best = np.tile(popularity_order(popularity)[: lists.k], (len(empty), 1))
            for state in range(states):
                lists.add(state, empty, best)
    if np.isnan(ranks).any():
        raise UserError("the model's scores are no finite numbers: its weights are too large")
    return RankedRows(ranks[:, 0], ranks[:, 1:] if per_step else None, len(empty))

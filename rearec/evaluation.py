"""Full-catalogue evaluation by rank (paper section 4.1): never a [rows, items] matrix of scores.

One relevant item per row. The rank is the number of items scored above the target plus half of those scored equal; seen
items are not removed. The metrics are those of `rearec.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.baselines import baseline_ranks, popularity_ranks
from rearec.data.batches import Batch, PairBatches, Pairing
from rearec.data.dataset import SequenceDataset, SplitName
from rearec.errors import UserError
from rearec.graphed_rollout import GraphedRollout
from rearec.metrics import rank_metrics
from rearec.reasoning import ReaRec
from rearec_kernels import catalog_rank, prepare_catalog

__all__ = ["BatchRanker", "RankedRows", "evaluate", "evaluation_batches", "quantile_groups", "rank_rows"]

FloatArray = NDArray[np.float64]


class BatchRanker:
    """Ranks the targets of batches, on whatever device, against the whole catalogue.

    The item table is prepared once for all of them, and on a GPU the model's passes are replayed as CUDA graphs.

    Args:
        model: its mode is left as it is; call ``model.eval()`` first.
        steps: reasoning steps, None for as many as the model was trained for.
    """

    def __init__(self, model: ReaRec, steps: int | None = None) -> None:
        self.model = model
        self.steps = steps
        self.catalog = prepare_catalog(model.weight.detach())
        self._rollout = GraphedRollout(model)

    def final(self, batch: Batch) -> FloatArray:
        """float64 [R], the rank of each row's target by the state that the method answers with."""
        return self._ranks(self.model.final_state(self._rollout(batch, self.steps).states), batch)

    def every_step(self, batch: Batch) -> tuple[FloatArray, FloatArray]:
        """Ranks by the final state, float64 [R], and by each state h_0..h_K alone, float64 [R, K + 1]."""
        states = self._rollout(batch, self.steps).states
        by_step = [self._ranks(states[:, step], batch) for step in range(states.shape[1])]
        return self._ranks(self.model.final_state(states), batch), np.stack(by_step, axis=1)

    def _ranks(self, hidden: torch.Tensor, batch: Batch) -> FloatArray:
        target = batch.target.to(hidden.device, non_blocking=True)
        return catalog_rank(hidden, self.catalog, target).double().cpu().numpy()


@dataclass(frozen=True)
class RankedRows:
    """The rank of every row of a split, in the order of ``dataset.rows(split)``.

    final: float64 [R]. by_step: float64 [R, K + 1], ranks by each state alone, or None where it was not asked for.
    empty_history_rows: how many rows have no history; they are ranked by popularity.
    """

    final: FloatArray
    by_step: FloatArray | None
    empty_history_rows: int


def evaluation_batches(model: ReaRec, dataset: SequenceDataset, split: SplitName, batch_rows: int) -> PairBatches:
    """The rows of a split in a fixed order, paired as the model's backbone encodes them best."""
    pairing: Pairing = "shared" if model.backbone.shares_windows else "separate"
    return PairBatches(dataset, split, batch_rows=batch_rows, max_len=model.config.max_len, pairing=pairing)


def rank_rows(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    steps: int | None = None,
    batch_rows: int = 512,
    per_step: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> RankedRows:
    """Rank the target of every row of a split against the whole catalogue.

    Runs in evaluation mode without gradients; the mode the model was in is restored. Arguments and errors as in
    `evaluate`.
    """
    if split not in ("train", "valid", "test"):
        raise UserError(f"split: got {split!r}, expected train, valid or test")
    if not len(dataset.rows(split)):
        raise UserError(f"the dataset has no {split} rows to evaluate on")
    if dataset.num_items != model.config.num_items:
        raise UserError(f"the model knows {model.config.num_items} items, the dataset has {dataset.num_items}")
    batches = evaluation_batches(model, dataset, split, batch_rows)
    rows = len(dataset.rows(split))
    final = np.empty(rows)
    by_step = np.empty((rows, (model.config.steps if steps is None else steps) + 1)) if per_step else None
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            ranker = BatchRanker(model, steps)
            done = 0
            for batch in batches:
                assert batch.row is not None
                place = batch.row.numpy()
                if by_step is None:
                    final[place] = ranker.final(batch)
                else:
                    final[place], by_step[place] = ranker.every_step(batch)
                done += len(place)
                if progress is not None:
                    progress(done, batches.num_rows)
    finally:
        model.train(was_training)
    empty = batches.empty_history_rows
    if len(empty):
        final[empty] = popularity_ranks(dataset.train_item_counts(), dataset.targets(split)[empty])
        if by_step is not None:
            by_step[empty] = final[empty, None]
    if np.isnan(final).any() or (by_step is not None and np.isnan(by_step).any()):
        raise UserError("the model's scores are no finite numbers: its weights are too large")
    return RankedRows(final, by_step, len(empty))


def evaluate(
    model: ReaRec,
    dataset: SequenceDataset,
    split: SplitName = "test",
    *,
    steps: int | None = None,
    batch_rows: int = 512,
    per_step: bool = False,
    users_by: str | None = None,
    items_by: str | None = None,
    floors: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Metrics of a model on one split, beside those of popularity and a first-order Markov chain on the same rows.

    Args:
        model: a trained model, on the device to compute on.
        dataset: the prepared dataset it was trained on.
        split: "train", "valid" or "test".
        steps: reasoning steps, at most the trained number; None for the trained number.
        batch_rows: rows per batch; the result does not depend on it beyond rounding.
        per_step: also the metrics of each state h_0..h_K taken alone.
        users_by: "length" adds the metrics of four groups of rows by the length of their history.
        items_by: "popularity" adds those of four groups by the training count of their target.
        floors: whether to rank by popularity and the Markov chain too.
        progress: called with (rows done, rows in all) after each batch.

    Returns:
        The metrics of `rank_metrics`, ``split``, ``steps``, ``empty_history_rows`` (ranked by popularity), and where
        asked for ``popularity`` and ``markov`` (metrics), ``by_step`` (list of metrics with ``step``),
        ``users_by_length`` and ``items_by_popularity`` (list of metrics with ``group``, a range like "5–7").

    Raises:
        UserError: an unknown split or grouping, a split without rows, scores that are no numbers.
        ValueError: more steps than trained.
    """
    steps = model.config.steps if steps is None else steps
    if users_by not in (None, "length"):
        raise UserError(f"users_by: got {users_by!r}, expected length")
    if items_by not in (None, "popularity"):
        raise UserError(f"items_by: got {items_by!r}, expected popularity")

    ranked = rank_rows(model, dataset, split, steps=steps, batch_rows=batch_rows, per_step=per_step, progress=progress)
    result = rank_metrics(ranked.final)
    result |= {"split": split, "steps": steps, "empty_history_rows": ranked.empty_history_rows}
    if floors:
        result |= {name: rank_metrics(ranks) for name, ranks in baseline_ranks(dataset, split).items()}
    if ranked.by_step is not None:
        result["by_step"] = [{"step": step, **rank_metrics(ranks)} for step, ranks in enumerate(ranked.by_step.T)]
    if users_by is not None:
        length = np.asarray(dataset.rows(split))[:, 1].astype(np.int64)
        result["users_by_length"] = _group_metrics(ranked.final, length)
    if items_by is not None:
        count = dataset.train_item_counts()[dataset.targets(split)]
        result["items_by_popularity"] = _group_metrics(ranked.final, count)
    return result


def quantile_groups(values: NDArray[np.int64], groups: int = 4) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """Cut rows into at most ``groups`` groups of about equal size by an integer value; equal values stay together.

    Returns:
        for each group, in rising order, (smallest value, largest value, bool [R] mask).
    """
    edges = np.unique(np.quantile(values, np.arange(1, groups) / groups, method="inverted_cdf"))
    member = np.searchsorted(edges, values)
    masks = [member == group for group in np.unique(member)]
    return [(int(values[mask].min()), int(values[mask].max()), mask) for mask in masks]


def _group_metrics(ranks: FloatArray, values: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {"group": f"{low}–{high}" if low < high else str(low), **rank_metrics(ranks[mask])}
        for low, high, mask in quantile_groups(values)
    ]

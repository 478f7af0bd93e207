"""Choosing rows of a split and batching their histories."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rearec.data.batch import Batch
from rearec.data.batches import collate_histories
from rearec.data.dataset import SequenceDataset
from rearec.data.words import SplitName
from rearec.errors import UserError

__all__ = ["history_batch", "sample_rows"]


def sample_rows(dataset: SequenceDataset, split: SplitName, count: int, seed: int = 0) -> NDArray[np.int64]:
    """int64 [n], sorted: ``count`` rows that have a history, drawn without replacement, or all if they are fewer.

    Raises:
        UserError: no row of the split has a history.
    """
    candidates = np.flatnonzero(np.asarray(dataset.rows(split))[:, 1] > 0)
    if not len(candidates):
        raise UserError(f"the dataset has no {split} rows with a history")
    if len(candidates) > count:
        candidates = np.random.default_rng(seed).choice(candidates, count, replace=False)
    return np.sort(candidates)


def history_batch(
    dataset: SequenceDataset, split: SplitName, rows: Sequence[int] | NDArray[np.int64], max_len: int
) -> Batch:
    """The histories of these rows as a batch, in this order: a window for each, its last ``max_len`` items."""
    places = np.asarray(dataset.rows(split))[rows]
    return collate_histories([dataset.history(sequence, position) for sequence, position in places], max_len)

"""The last step of a preparation: a dataset of the sequences that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.statistics import describe
from rearec.data.words import SPLIT_NAMES

__all__ = ["assemble"]


def assemble(
    sequences: Sequences,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    *,
    title_of: Mapping[str, str] | None = None,
    source: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> SequenceDataset:
    """A dataset in memory: users and items that occur in no sequence are left out, the order of the others stays."""
    used_items, items = _compact(sequences.items, len(item_ids))
    used_users, users = _compact(sequences.user, len(user_ids))
    rows = sequences.rows
    pairs = np.stack((rows.sequence, rows.position), axis=1).astype(np.int32)
    kept_items = [item_ids[index] for index in used_items]
    dataset = SequenceDataset(
        items=items,
        offsets=sequences.offsets.astype(np.int64),
        sequence_user=users,
        split_rows={name: pairs[rows.part == part] for part, name in enumerate(SPLIT_NAMES)},
        item_ids=kept_items,
        user_ids=[user_ids[index] for index in used_users],
        statistics={},
        source=source or {},
        options=options or {},
        item_titles=None if title_of is None else [title_of.get(token) or None for token in kept_items],
    )
    dataset.statistics.update(describe(dataset, sequences.times))
    return dataset


def _compact(codes: NDArray[np.int32], count: int) -> tuple[list[int], NDArray[np.int32]]:
    """The codes that occur, ascending, and ``codes`` as indices into them."""
    occurs = np.bincount(codes, minlength=count) > 0
    return np.flatnonzero(occurs).tolist(), (np.cumsum(occurs) - 1)[codes].astype(np.int32)

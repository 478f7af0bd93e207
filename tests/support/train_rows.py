"""Datasets of given training rows: for tests of batches."""

from __future__ import annotations

import numpy as np

from rearec.data import SequenceDataset


def dataset_of(
    sequences: list[list[int]], rows: list[tuple[int, int]], users: list[int] | None = None
) -> SequenceDataset:
    """A dataset whose train rows are ``rows``; the other splits are empty."""
    none = np.empty((0, 2), dtype=np.int32)
    num_items = 1 + max(max(sequence) for sequence in sequences)
    users = list(range(len(sequences))) if users is None else users
    return SequenceDataset(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        sequence_user=np.asarray(users, dtype=np.int32),
        split_rows={"train": np.asarray(rows, dtype=np.int32).reshape(-1, 2), "valid": none, "test": none},
        item_ids=[str(item) for item in range(num_items)],
        user_ids=[str(user) for user in range(max(users) + 1)],
        statistics={},
    )

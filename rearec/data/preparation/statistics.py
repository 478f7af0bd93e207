"""The numbers of a dataset, as in Table 1 of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.filters import repeats

__all__ = ["describe"]


def describe(dataset: SequenceDataset) -> dict[str, Any]:
    """Counts of users, items, interactions and rows.

    Returns:
        ``users``, ``items``, ``interactions``; ``average_length``: interactions per user; ``density``: interactions /
        (users x items); ``train_rows``, ``valid_rows``, ``test_rows``; ``valid_rows_without_history``,
        ``test_rows_without_history``: those that only popularity can answer; ``repeated_interactions``: those whose
        user had the item before.
    """
    length = np.diff(dataset.offsets)
    first = np.repeat(dataset.first_of_user, length)
    user = np.repeat(np.asarray(dataset.sequence_user), length)
    interactions = dataset.num_interactions
    statistics: dict[str, Any] = {
        "users": dataset.num_users,
        "items": dataset.num_items,
        "interactions": interactions,
        "average_length": interactions / dataset.num_users,
        "density": interactions / (dataset.num_users * dataset.num_items),
    }
    statistics |= {f"{split}_rows": len(rows) for split, rows in dataset.split_rows.items()}
    for split in ("valid", "test"):
        statistics[f"{split}_rows_without_history"] = int(np.count_nonzero(dataset.rows(split)[:, 1] == 0))
    statistics["repeated_interactions"] = int(repeats(user[first], np.asarray(dataset.items)[first]).sum())
    return statistics

"""The numbers of a dataset, as in Table 1 of the paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.filters import repeats

__all__ = ["describe", "later_training"]


def describe(dataset: SequenceDataset, times: NDArray[np.int64] | NDArray[np.float64] | None = None) -> dict[str, Any]:
    """Counts of users, items, interactions and rows.

    times: when each of ``dataset.items`` was; None where nobody knows.

    Returns:
        ``users``, ``items``, ``interactions``; ``average_length``: interactions per user; ``density``: interactions /
        (users x items); ``train_rows``, ``valid_rows``, ``test_rows``; ``valid_rows_without_history``,
        ``test_rows_without_history``: those that only popularity can answer; ``repeated_interactions``: those whose
        user had the item before; with ``times`` what `later_training` says.
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
    return statistics | ({} if times is None else later_training(dataset, times))


def later_training(dataset: SequenceDataset, times: NDArray[np.int64] | NDArray[np.float64]) -> dict[str, Any]:
    """How much of the training part is later in time than the test rows: what no model would have had by then.

    Later is strictly later than the row's target; a training interaction is one that `train_item_counts` counts.

    times: [total], when each of ``dataset.items`` was.

    Returns:
        ``test_rows_before_training``: test rows with a later training interaction, of whatever user;
        ``test_rows_before_own_item``: those with a later training interaction of their target;
        ``later_training_share``: of all training interactions those that are later than a test row, on average over
        the test rows. Nothing where there are no test rows or no training interactions.
    """
    rows, training = np.asarray(dataset.rows("test")), dataset.training_interactions()
    if not len(rows) or not training.any():
        return {}
    of_row = times[np.asarray(dataset.offsets)[rows[:, 0]] + rows[:, 1]]
    ordered = np.sort(times[training])
    later = len(ordered) - np.searchsorted(ordered, of_row, side="right")
    # An item without training interactions stays at the earliest time of all, which is later than no row.
    latest = np.full(dataset.num_items, times.min(), dtype=times.dtype)
    np.maximum.at(latest, np.asarray(dataset.items)[training], times[training])
    return {
        "test_rows_before_training": int(np.count_nonzero(later)),
        "test_rows_before_own_item": int(np.count_nonzero(latest[dataset.targets("test")] > of_row)),
        "later_training_share": float(later.mean() / len(ordered)),
    }

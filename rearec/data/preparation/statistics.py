"""The numbers of a dataset, as in Table 1 of the paper."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.filters import repeats
from rearec.data.tables.arrays import Array, in_blocks

__all__ = ["describe", "later_training"]


def describe(dataset: SequenceDataset, times: Array | None = None) -> dict[str, Any]:
    """Counts of users, items, interactions and rows.

    times: when each of ``dataset.items`` was; None where nobody knows.

    Returns:
        ``users``, ``items``, ``interactions``; ``average_length``: interactions per user; ``density``: interactions /
        (users x items); ``train_rows``, ``valid_rows``, ``test_rows``; ``valid_rows_without_history``,
        ``test_rows_without_history``: those that only popularity can answer; ``repeated_interactions``: those whose
        user had the item before; with ``times`` what `later_training` says.
    """
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
    statistics["repeated_interactions"] = sum(_repeated(part) for part in dataset.parts())
    return statistics | ({} if times is None else later_training(dataset, times))


def _repeated(part: SequenceDataset) -> int:
    length = np.diff(part.offsets)
    first = np.repeat(part.first_of_user, length)
    user = np.repeat(part.sequence_user, length)
    return int(repeats(user[first], part.items[first]).sum())


def later_training(dataset: SequenceDataset, times: Array) -> dict[str, Any]:
    """How much of the training part is later in time than the test rows: what no model would have had by then.

    Later is strictly later than the row's target; a training interaction is one that `train_item_counts` counts.

    times: [total], when each of ``dataset.items`` was.

    Returns:
        ``test_rows_before_training``: test rows with a later training interaction, of whatever user;
        ``test_rows_before_own_item``: those with a later training interaction of their target;
        ``later_training_share``: of all training interactions those that are later than a test row, on average over
        the test rows. Nothing where there are no test rows or no training interactions.
    """
    of_row: list[NDArray[Any]] = []
    training = _Training(dataset.num_items, times)
    for part, of_part in _with_times(dataset, times):
        rows = part.rows("test")
        of_row.append(of_part[part.offsets[rows[:, 0]] + rows[:, 1]])
        training.add(part, of_part)
    row_times = np.concatenate(of_row) if of_row else np.empty(0)
    if not len(row_times) or not training.count:
        return {}
    # Pairs of a test row and a later training interaction.
    ordered, later = np.sort(row_times), 0
    for part, of_part in _with_times(dataset, times):
        later += int(np.searchsorted(ordered, of_part[part.training_interactions()]).sum())
    return {
        "test_rows_before_training": int(np.count_nonzero(training.last > row_times)),
        "test_rows_before_own_item": int(np.count_nonzero(training.last_of_item[dataset.targets("test")] > row_times)),
        "later_training_share": later / len(row_times) / training.count,
    }


def _with_times(dataset: SequenceDataset, times: Array) -> Iterator[tuple[SequenceDataset, NDArray[Any]]]:
    """Parts of the dataset, each with the times of its items."""
    begin = 0
    for part in dataset.parts():
        yield part, times[begin : begin + len(part.items)]
        begin += len(part.items)


class _Training:
    """When the training interactions were: how many (count), the last of all and of each item."""

    def __init__(self, num_items: int, times: Array) -> None:
        # An item without training interactions stays at the earliest time of all, which is later than no row.
        earliest = min((part.min() for (part,) in in_blocks(times)), default=0)
        self.count, self.last = 0, earliest
        self.last_of_item = np.full(num_items, earliest, dtype=times.dtype)

    def add(self, part: SequenceDataset, times: NDArray[Any]) -> None:
        training = part.training_interactions()
        self.count += int(np.count_nonzero(training))
        np.maximum.at(self.last_of_item, part.items[training], times[training])
        self.last = max(self.last, times[training].max(initial=self.last))

"""Metrics of rankings that are there already, of groups of their rows, and of the floors: none needs a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rearec.errors import UserError
from rearec.evaluation.floors import baseline_lists, baseline_ranks, floor_settings
from rearec.evaluation.metrics import METRICS, Metric, parse_metrics, row_metrics, summary
from rearec.evaluation.top_lists import TopLists

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.data.words import SplitName

__all__ = ["Measured", "RowGroups", "floor_metrics", "floor_sample", "quantile_groups"]

# Of a memory limit the bytes for each interaction that floors are counted from, and the most of them, for the time.
FLOOR_BYTES, FLOOR_INTERACTIONS = 1000, 1_000_000

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def floor_sample(dataset: SequenceDataset, memory: int | None) -> tuple[SequenceDataset, str]:
    """The data that floors are counted from and measured on, and in words which users these are; empty: all.

    memory: the limit in bytes, with which they are at most a million interactions, of users drawn at random; None: all.
    """
    most = len(dataset.items) if memory is None else min(memory // FLOOR_BYTES, FLOOR_INTERACTIONS)
    some = dataset.of_some_users(most)
    if some is dataset:
        return dataset, ""
    users = len(np.unique(some.sequence_user))
    return some, f"of {users:,} of {dataset.num_users:,} users, drawn at random, and counted from them alone"


def floor_metrics(
    dataset: SequenceDataset, split: SplitName, *, exclude_seen: bool, metrics: Sequence[Metric] | None = None
) -> dict[str, dict[str, Any]]:
    """Metrics of each floor on every row of a split, and ``settings`` of those that choose any on validation rows.

    exclude_seen: whether the items of a row's history are left out.
    metrics: those of `evaluate` where None.
    """
    chosen = parse_metrics(METRICS) if metrics is None else metrics
    ranks = baseline_ranks(dataset, split, exclude_seen=exclude_seen)
    groups = RowGroups(dataset, split)
    measured = {name: Measured(chosen, dataset, groups, states=1) for name in ranks}
    k = max((metric.k or 0 for metric in chosen if metric.is_of_lists), default=0)
    for name, rows, items in baseline_lists(dataset, split, k, exclude_seen=exclude_seen) if k else ():
        lists = measured[name].lists
        assert lists is not None
        lists.add(0, rows, items)
    found = {name: measured[name].metrics(of_floor) for name, of_floor in ranks.items()}
    for name, settings in floor_settings(dataset, exclude_seen=exclude_seen).items():
        found[name]["settings"] = settings
    return found


class RowGroups:
    """The rows of a split that are measured together, all of them first.

    users_by, items_by: as in `evaluate`; UserError for another word.

    names: the key in the result ("" for all rows, ``users_by_length``, ``items_by_popularity``) and the range of each;
    masks: bool [G, R].
    """

    def __init__(
        self, dataset: SequenceDataset, split: SplitName, users_by: str | None = None, items_by: str | None = None
    ) -> None:
        if users_by not in (None, "length"):
            raise UserError(f"users_by: got {users_by!r}, expected length")
        if items_by not in (None, "popularity"):
            raise UserError(f"items_by: got {items_by!r}, expected popularity")
        rows = np.asarray(dataset.rows(split))
        names, masks = [("", "all")], [np.ones(len(rows), dtype=bool)]
        values: dict[str, IntArray] = {}
        if users_by is not None:
            values["users_by_length"] = rows[:, 1].astype(np.int64)
        if items_by is not None:
            values["items_by_popularity"] = dataset.train_item_counts()[dataset.targets(split)]
        for key, of_row in values.items():
            for low, high, mask in quantile_groups(of_row):
                names.append((key, f"{low}–{high}" if low < high else str(low)))
                masks.append(mask)
        self.names, self.masks = names, np.stack(masks)


class Measured:
    """The metrics of some rankings of the same rows."""

    def __init__(self, metrics: Sequence[Metric], dataset: SequenceDataset, groups: RowGroups, states: int) -> None:
        self._names = [metric.name for metric in metrics]
        self._of_ranks = [metric.name for metric in metrics if not metric.is_of_lists]
        of_lists = [metric for metric in metrics if metric.is_of_lists]
        self._masks = groups.masks
        self.lists = TopLists(of_lists, dataset, groups.masks, states) if of_lists else None

    def metrics(self, ranks: FloatArray, *, state: int = 0, group: int = 0) -> dict[str, Any]:
        """Those of a group's rows by the ranks [R] of all rows and the lists of that state."""
        of_group = ranks[self._masks[group]]
        values: dict[str, FloatArray | float] = dict(row_metrics(of_group, self._of_ranks)) if self._of_ranks else {}
        if self.lists is not None:
            values |= self.lists.values(state, group)
        return summary({name: values[name] for name in self._names}, len(of_group))


def quantile_groups(values: IntArray, groups: int = 4) -> list[tuple[int, int, BoolArray]]:
    """Cut rows into at most ``groups`` groups of about equal size by an integer value; equal values stay together.

    Returns:
        for each group, in rising order, (smallest value, largest value, bool [R] mask).

    Examples:
        >>> import numpy as np
        >>> from rearec.evaluation import quantile_groups
        >>> groups = quantile_groups(np.array([1, 1, 2, 3, 7, 9]), groups=2)
        >>> [(low, high, int(mask.sum())) for low, high, mask in groups]
        [(1, 2, 3), (3, 9, 3)]
    """
    edges = np.unique(np.quantile(values, np.arange(1, groups) / groups, method="inverted_cdf"))
    member = np.searchsorted(edges, values)
    masks = [member == group for group in np.unique(member)]
    return [(int(values[mask].min()), int(values[mask].max()), mask) for mask in masks]

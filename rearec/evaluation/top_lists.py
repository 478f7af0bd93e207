"""Metrics of the lists that rows are shown, whoever their targets are: the first k items of each row's ranking.

Seen items are left out of the lists where they are left out of the ranks, the target too if it is one of them: these
are the answers of ``Recommender.recommend(..., exclude_seen=...)``. Over the training data, with c_i the interactions
with item i, u_i the users who have it and U the users who have any:

``coverage@k``  the share of the N items that at least one row is shown (Ge, Delgado-Battenfeld, Jannach: "Beyond
                accuracy", RecSys 2010)
``novelty@k``   mean self-information of the items shown, log2(U / max(u_i, 1)), in bits (Zhou et al.: "Solving the
                apparent diversity-accuracy dilemma of recommender systems", PNAS 2010)
``arp@k``       average recommendation popularity, the mean c_i of the items shown: the popularity bias (Yin et al.:
                "Challenging the long tail recommendation", VLDB 2012)

novelty and arp are means over rows of the mean over a row's list; a row with an empty list has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.metrics import Metric

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset

__all__ = ["TopLists"]

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class TopLists:
    """Takes the lists of a split's rows batch by batch and keeps of them what the metrics need.

    Args:
        metrics: those of lists.
        dataset: whose training data says how popular items are.
        groups: bool [G, R], rows that are measured together.
        states: for how many rankings of each row.
    """

    def __init__(self, metrics: Sequence[Metric], dataset: SequenceDataset, groups: BoolArray, states: int) -> None:
        self._metrics = metrics
        self._groups = groups
        users, having = dataset.train_users_by_item()
        self._of_item = {
            "novelty": np.log2(users / np.maximum(having, 1)) if users else np.zeros(dataset.num_items),
            "arp": dataset.train_item_counts().astype(np.float64),
        }
        rows, items = groups.shape[1], dataset.num_items
        self._of_row = {
            metric.name: np.full((states, rows), np.nan) for metric in metrics if metric.kind in self._of_item
        }
        self._shown = {
            metric.name: np.zeros((states, len(groups), items), dtype=bool)
            for metric in metrics
            if metric.kind == "coverage"
        }

    @property
    def k(self) -> int:
        """How long the lists have to be."""
        return max(metric.k or 0 for metric in self._metrics)

    def add(self, state: int, rows: IntArray, items: IntArray) -> None:
        """The lists of some rows by one ranking: [n] rows, [n, k] items, best first, -1 where there are fewer."""
        for metric in self._metrics:
            best = items[:, : metric.k]
            listed = best >= 0
            if metric.kind == "coverage":
                for group, member in enumerate(self._groups[:, rows]):
                    self._shown[metric.name][state, group, best[member][listed[member]]] = True
            else:
                count = listed.sum(axis=1)
                total = np.where(listed, self._of_item[metric.kind][best], 0.0).sum(axis=1)
                some = count > 0
                self._of_row[metric.name][state, rows[some]] = total[some] / count[some]

    def join(self) -> None:
        """Take in what the other processes were given, where there are several: other rows than this one."""
        from rearec.distributed import added

        for of_row in self._of_row.values():
            given = ~np.isnan(of_row)
            total, of_all = added(np.where(given, of_row, 0.0)), added(given)
            of_row[:] = np.where(of_all > 0, total, np.nan)
        for shown in self._shown.values():
            shown[:] = added(shown) > 0

    def values(self, state: int, group: int) -> dict[str, FloatArray | float]:
        """By metric, for one ranking and group: what each row that has a list adds, or coverage as one number."""
        found: dict[str, FloatArray | float] = {}
        for name, of_row in self._of_row.items():
            of_group = of_row[state, self._groups[group]]
            found[name] = of_group[~np.isnan(of_group)]
        return found | {name: float(shown[state, group].mean()) for name, shown in self._shown.items()}

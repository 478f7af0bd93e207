"""One evaluator for all: ranks of the test targets in exported lists over the whole catalogue."""

from __future__ import annotations

from typing import Any

import numpy as np

from contenders.libraries.task import IntArray, Sequences
from rearec.evaluation.metrics import row_metrics

METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20")
TOP = 20


def without(lists: IntArray, sequences: Sequences) -> IntArray:
    """The lists without the items of each user's history: int64 [users, TOP]. A target that is in it stays."""
    result = np.full((len(lists), TOP), -1, dtype=np.int64)
    for user, (items, target) in enumerate(zip(lists, sequences.targets, strict=True)):
        seen = np.isin(items, sequences.history(user)) & (items != target)
        left = items[~seen & (items >= 0)][:TOP]
        result[user, : len(left)] = left
    return result


def metrics(lists: IntArray, targets: IntArray) -> dict[str, float]:
    """Means over users of METRICS, with the standard error of ndcg@10. lists: [users, TOP or more], best first."""
    hit = lists[:, :TOP] == targets[:, None]
    rank = np.where(hit.any(1), hit.argmax(1), np.inf)
    rows = row_metrics(rank)
    found = {name: float(rows[name].mean()) for name in METRICS}
    return found | {"ndcg@10_se": float(rows["ndcg@10"].std(ddof=1) / np.sqrt(len(rank)))}


def evaluated(lists: IntArray, sequences: Sequences) -> dict[str, Any]:
    """Metrics with seen items left in the lists and taken out.

    Raises ValueError for lists that are of other users or hold an item twice.
    """
    if len(lists) != sequences.num_users:
        raise ValueError(f"lists of {len(lists)} users, expected {sequences.num_users}")
    ordered = np.sort(lists, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise ValueError("a list holds an item twice")
    return {
        "seen_kept": metrics(lists, sequences.targets),
        "seen_removed": metrics(without(lists, sequences), sequences.targets),
    }

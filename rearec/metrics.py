"""Ranking metrics with one relevant item per row.

``NDCG@k = 1 / log2(rank + 2)`` and ``Recall@k = 1`` where ``rank < k``, else 0; ``MRR = 1 / (rank + 1)``. Means over
the rows in float64, never rounded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["METRICS", "rank_metrics", "row_metrics"]

METRICS = ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")


def row_metrics(ranks: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """What each row adds to the metrics: for each of ``METRICS`` float64 of the shape of ``ranks``."""
    rank = np.asarray(ranks, dtype=np.float64)
    gain = 1.0 / np.log2(rank + 2.0)
    return {
        "ndcg@10": np.where(rank < 10, gain, 0.0),
        "ndcg@20": np.where(rank < 20, gain, 0.0),
        "recall@10": (rank < 10).astype(np.float64),
        "recall@20": (rank < 20).astype(np.float64),
        "mrr": 1.0 / (rank + 1.0),
    }


def rank_metrics(ranks: ArrayLike) -> dict[str, Any]:
    """Metrics of a set of ranks.

    Args:
        ranks: [R], the number of items above each target (half ties: x.5 is possible), 0 is the top.

    Returns:
        each of ``METRICS`` as a float, its standard error (sample standard deviation / sqrt(R); None for R < 2) as
        ``<metric>_se``, and ``rows``. Every value is None when there are no rows.
    """
    values = row_metrics(ranks)
    rows = len(values[METRICS[0]])
    result: dict[str, Any] = {}
    for name in METRICS:
        result[name] = float(values[name].mean()) if rows else None
        result[f"{name}_se"] = float(values[name].std(ddof=1) / np.sqrt(rows)) if rows > 1 else None
    result["rows"] = rows
    return result

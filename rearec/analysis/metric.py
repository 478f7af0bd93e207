"""The metric that an analysis draws and compares by."""

from __future__ import annotations

from rearec.evaluation.metrics import METRICS, parse_metrics, row_metrics

__all__ = ["METRIC", "rank_metric", "with_usual"]

METRIC = "ndcg@20"


def rank_metric(name: str, num_items: int | None = None) -> str:
    """The metric of this name as results call it.

    num_items: N, the largest k; None for no limit.

    Raises:
        UserError: an unknown metric, one that the targets' ranks do not tell, a k below 1 or above N.
    """
    (metric,) = parse_metrics([name], num_items)
    row_metrics([], [metric.name])
    return metric.name


def with_usual(metric: str) -> tuple[str, ...]:
    """The metrics of every evaluation, and this one after them where it is none of them."""
    return tuple(dict.fromkeys((*METRICS, metric)))

"""What stands above a column."""

from __future__ import annotations

__all__ = ["heading"]


def heading(metric: str) -> str:
    """A metric's name above a column: ``NDCG@10``, ``Recall@10``."""
    kind, at, k = metric.partition("@")
    return (kind.upper() if kind in ("ndcg", "map", "mrr", "arp") else kind.capitalize()) + at + k

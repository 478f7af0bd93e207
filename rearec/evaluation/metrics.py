"""Ranking metrics with one relevant item per row, by name.

With the rank of a row's target counted from 0, and k any number of items:

``ndcg@k``      1 / log2(rank + 2) where rank < k, else 0
``recall@k``    1 where rank < k, else 0; ``hit@k`` is the same, as there is one relevant item
``map@k``       1 / (rank + 1) where rank < k, else 0; ``mrr@k`` is the same, and ``mrr`` has no cutoff

They are means over the rows in float64, never rounded. ``coverage@k``, ``novelty@k`` and ``arp@k`` are about the lists
that rows are shown (`rearec.evaluation.top_lists`).

Left out are ``precision@k``, which is ``hit@k`` / k here, and the diversity within a list: it takes a distance between
items, and where the data has none it would be that of each model's own vectors, in which no two models can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rearec.errors import UserError
from rearec.report.headings import heading

__all__ = [
    "LIST_METRICS",
    "METRICS",
    "Metric",
    "chosen_metrics",
    "heading",
    "parse_metrics",
    "rank_metrics",
    "row_metrics",
    "summary",
]

METRICS = ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")

FloatArray = NDArray[np.float64]

# What a row adds by its rank, before the cutoff at k.
_GAINS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "ndcg": lambda rank: 1.0 / np.log2(rank + 2.0),
    "recall": np.ones_like,
    "hit": np.ones_like,
    "map": lambda rank: 1.0 / (rank + 1.0),
    "mrr": lambda rank: 1.0 / (rank + 1.0),
}
LIST_METRICS = ("coverage", "novelty", "arp")
WITHOUT_CUTOFF = ("mrr",)
OTHER_NAMES = {"hitrate": "hit", "hr": "hit"}
_NOT_HERE = {
    "precision": "there is one relevant item per row, precision@k is hit@k / k",
    "diversity": "it takes a distance between items, which the data does not have",
    "ild": "it takes a distance between items, which the data does not have",
}
_KNOWN = ", ".join(
    [f"{kind}@k" for kind in (*_GAINS, *LIST_METRICS)] + [f"{kind} without a cutoff" for kind in WITHOUT_CUTOFF]
)


@dataclass(frozen=True)
class Metric:
    """A metric by its kind (``ndcg``) and cutoff (k; None for ``mrr``)."""

    kind: str
    k: int | None

    @property
    def name(self) -> str:
        """As in every result: ``ndcg@10``."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"

    @property
    def is_of_lists(self) -> bool:
        """Whether it is about the lists that rows are shown, not about their targets."""
        return self.kind in LIST_METRICS


def parse_metrics(names: Iterable[str], num_items: int | None = None) -> list[Metric]:
    """Metrics by name, each once.

    Args:
        names: such as "ndcg@5", in upper or lower case; "hr@5" and "hitrate@5" are "hit@5".
        num_items: N, the largest k of others than the usual metrics; None for no limit.

    Raises:
        UserError: no or an unknown metric, a k below 1 or, but in `METRICS`, above N.
    """
    if isinstance(names, str):
        raise UserError(f"metrics: got the text {names!r}, expected several names, as in [{names!r}]")
    found = dict.fromkeys(_parse(name.strip(), num_items) for name in names)
    if not found:
        raise UserError(f"metrics: got none, expected some of {_KNOWN}")
    return list(found)


def chosen_metrics(metrics: str | None, cutoffs: str | None, num_items: int | None = None) -> list[str] | None:
    """The metrics that two options ask for, by name; None where neither is given.

    Args:
        metrics: names with commas between; None for NDCG, Recall and MRR. A name without its k stands for one metric
            for each of ``cutoffs``.
        cutoffs: values of k with commas between.
        num_items: as `parse_metrics`.

    Raises:
        UserError: as `parse_metrics`; cutoffs that no metric takes, or that are no integers.

    Examples:
        >>> from rearec.evaluation.metrics import chosen_metrics
        >>> chosen_metrics("ndcg,HR", "5,10")
        ['ndcg@5', 'ndcg@10', 'hit@5', 'hit@10']
        >>> chosen_metrics(None, "50")
        ['ndcg@50', 'recall@50', 'mrr']
    """
    if metrics is None and cutoffs is None:
        return None
    ks = [] if cutoffs is None else [k.strip() for k in cutoffs.split(",")]
    for k in ks:
        if not re.fullmatch(r"[0-9]{1,18}", k):
            raise UserError(f"-k: got {k!r}, expected integers with commas between, such as 5,10")
    names = [name.strip() for name in ("ndcg,recall,mrr" if metrics is None else metrics).split(",")]
    bare = [name for name in names if "@" not in name and name.lower() not in WITHOUT_CUTOFF]
    if ks and not bare:
        raise UserError("-k: every metric has its k already; give names without one, such as ndcg,hit")
    spread = [[f"{name}@{k}" for k in ks] if ks and name in bare else [name] for name in names]
    return [metric.name for metric in parse_metrics((name for each in spread for name in each), num_items)]


def _parse(name: str, num_items: int | None) -> Metric:
    match = re.fullmatch(r"([a-z]+)(?:@(-?[0-9]{1,18}))?", name.lower())
    kind, cutoff = match.groups() if match else ("", None)
    kind = OTHER_NAMES.get(kind, kind)
    if kind not in (*_GAINS, *LIST_METRICS):
        why = f": {_NOT_HERE[kind]}" if kind in _NOT_HERE else ""
        raise UserError(f"metrics: unknown metric {name!r}{why}; known are {_KNOWN}")
    if cutoff is None:
        if kind not in WITHOUT_CUTOFF:
            raise UserError(f"metrics: {name!r} lacks its k, expected such as {kind}@10")
        return Metric(kind, None)
    k = int(cutoff)
    if k < 1 or (num_items is not None and k > num_items and f"{kind}@{k}" not in METRICS):
        limit = "1 or more" if num_items is None else f"1 to {num_items:,}, the number of items"
        raise UserError(f"metrics: {name!r} has k = {k}, expected {limit}")
    return Metric(kind, k)


def row_metrics(ranks: ArrayLike, metrics: Sequence[str] = METRICS) -> dict[str, FloatArray]:
    """What each row adds to the metrics: for each of them, by name, float64 of the shape of ``ranks``.

    Raises:
        UserError: an unknown metric, or one that ranks do not tell.
    """
    rank = np.asarray(ranks, dtype=np.float64)
    values = {}
    for metric in parse_metrics(metrics):
        if metric.is_of_lists:
            raise UserError(f"metrics: {metric.name} is about lists of items, the targets' ranks do not tell it")
        gain = _GAINS[metric.kind](rank)
        values[metric.name] = gain if metric.k is None else np.where(rank < metric.k, gain, 0.0)
    return values


def rank_metrics(ranks: ArrayLike, metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """Metrics of a set of ranks.

    Args:
        ranks: [R], the number of items above each target (half ties: x.5 is possible), 0 is the top.
        metrics: by name.

    Returns:
        as `summary`.
    """
    return summary(row_metrics(ranks, metrics), np.size(ranks))


def summary(values: Mapping[str, FloatArray | float], rows: int) -> dict[str, Any]:
    """Means over rows with their standard errors.

    Args:
        values: by metric what each row that has a value adds to it, [R]; or a number for a metric of all rows together.
        rows: how many there are.

    Returns:
        each metric as a float, its standard error (sample standard deviation / sqrt(R); None for R < 2 and for a metric
        of all rows together) as ``<metric>_se``, and ``rows``. Every value is None when there are no rows.
    """
    result: dict[str, Any] = {}
    for name, value in values.items():
        of_rows = np.atleast_1d(value)
        count = len(of_rows) if rows else 0
        result[name] = float(of_rows.mean()) if count else None
        result[f"{name}_se"] = float(of_rows.std(ddof=1) / np.sqrt(count)) if count > 1 else None
    result["rows"] = rows
    return result

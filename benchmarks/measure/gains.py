"""How far one contender is above another on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.metrics import row_metrics
from rearec.experiments.results import Gain

METRICS = ("ndcg@20", "recall@20")


def gains(ranks: Mapping[str, Sequence[NDArray[np.float64]]], method: str, over: str) -> dict[str, str]:
    """By metric: the gain in per cent with its 95 % paired bootstrap interval over rows, seeds pooled.

    ranks: of each contender float64 [rows] for every seed, the same rows in all.
    """
    found = {}
    for metric in METRICS:
        a, b = (np.stack([row_metrics(final)[metric] for final in ranks[name]]) for name in (method, over))
        found[metric] = str(Gain.of(paired_interval(a, b), float(b.mean())))
    return found

"""Evaluation over the full catalogue: ranks, metrics, the floors, and which items count as candidates.

Names are imported when first used: the floors and the metrics need no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rearec.evaluation.measures import evaluate, quantile_groups
    from rearec.evaluation.ranking import BatchRanker, RankedRows, evaluation_batches, rank_rows
    from rearec.evaluation.seen import SeenItems, seen_items

__all__ = [
    "BatchRanker",
    "RankedRows",
    "SeenItems",
    "evaluate",
    "evaluation_batches",
    "quantile_groups",
    "rank_rows",
    "seen_items",
]

_MODULES = {
    "evaluate": "rearec.evaluation.measures",
    "quantile_groups": "rearec.evaluation.measures",
    "BatchRanker": "rearec.evaluation.ranking",
    "RankedRows": "rearec.evaluation.ranking",
    "evaluation_batches": "rearec.evaluation.ranking",
    "rank_rows": "rearec.evaluation.ranking",
    "SeenItems": "rearec.evaluation.seen",
    "seen_items": "rearec.evaluation.seen",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

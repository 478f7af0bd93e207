from .measured import quantile_groups
from .measures import evaluate
from .ranking import BatchRanker, RankedRows, evaluation_batches, rank_rows
from .seen import SeenItems, seen_items

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

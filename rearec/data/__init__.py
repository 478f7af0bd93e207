"""Data: readers, filters and splits, the prepared dataset, batches and the synthetic generator.

Names are imported when first used, so that ``import rearec.data`` costs nothing (no torch, no polars).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rearec.data.batches import Batch, PairBatches, collate_histories
    from rearec.data.dataset import SequenceDataset
    from rearec.data.options import FORMATS, SPLITS, PrepareOptions
    from rearec.data.preparation.prepare import prepare
    from rearec.data.storage import load_dataset, save_dataset

__all__ = [
    "FORMATS",
    "SPLITS",
    "Batch",
    "PairBatches",
    "PrepareOptions",
    "SequenceDataset",
    "collate_histories",
    "load_dataset",
    "prepare",
    "save_dataset",
]

_MODULES = {
    "Batch": "rearec.data.batches",
    "PairBatches": "rearec.data.batches",
    "collate_histories": "rearec.data.batches",
    "SequenceDataset": "rearec.data.dataset",
    "load_dataset": "rearec.data.storage",
    "save_dataset": "rearec.data.storage",
    "FORMATS": "rearec.data.options",
    "SPLITS": "rearec.data.options",
    "PrepareOptions": "rearec.data.options",
    "prepare": "rearec.data.preparation.prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

from .batch import Batch
from .batches import PairBatches, collate_histories
from .dataset import SequenceDataset
from .preparation.options import FORMATS, SPLITS, PrepareOptions
from .preparation.prepare import prepare
from .storage import load_dataset, save_dataset

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

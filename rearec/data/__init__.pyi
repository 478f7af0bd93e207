from .batch import Batch
from .batches import PairBatches, collate_histories
from .dataset import SequenceDataset
from .preparation.prepare import prepare
from .readers.formats import FORMATS
from .readers.options import SPLITS, PrepareOptions
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

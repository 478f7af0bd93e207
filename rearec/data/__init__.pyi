from .batch import Batch
from .batches import PairBatches, collate_histories
from .dataset import SequenceDataset
from .item_graph import GraphOptions, ItemGraph, RowScores
from .preparation.in_memory import Dataset
from .preparation.prepare import prepare
from .readers.formats import FORMATS
from .readers.interactions import as_token
from .readers.options import SPLITS, PrepareOptions
from .storage import load_dataset, save_dataset
from .synthetic.shop import sample_events

__all__ = [
    "FORMATS",
    "SPLITS",
    "Batch",
    "Dataset",
    "GraphOptions",
    "ItemGraph",
    "PairBatches",
    "PrepareOptions",
    "RowScores",
    "SequenceDataset",
    "as_token",
    "collate_histories",
    "load_dataset",
    "prepare",
    "sample_events",
    "save_dataset",
]

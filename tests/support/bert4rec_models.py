"""Small BERT4Rec models, and batches for both of its training tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from rollouts import MAX_LEN, NUM_ITEMS, dataset_of

from rearec.data import SequenceDataset
from rearec.data.batch import Batch
from rearec.data.cloze import ClozeBatches
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec

LENGTHS = [3, 20, 1, 7, 1, 12]
TASKS = ("next-item", "cloze")


def model_of(method: str = "prl", steps: int = 2, dtype: torch.dtype = torch.float64, **settings: Any) -> ReaRec:
    """A small model in evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    config = ReaRecConfig(NUM_ITEMS, "bert4rec", method, steps, **{"dim": 8, "ffn": 12, "max_len": MAX_LEN, **settings})
    model = ReaRec(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def training_dataset() -> SequenceDataset:
    """All items but each user's first one are targets of training rows."""
    dataset = dataset_of(5)
    rows = [(s, p) for s, n in enumerate(np.diff(dataset.offsets)) for p in range(1, n)]
    return dataclasses.replace(dataset, split_rows={**dataset.split_rows, "train": np.asarray(rows, dtype=np.int32)})


def cloze_batch(share: float = 0.3) -> Batch:
    (batch,) = ClozeBatches(training_dataset(), batch_rows=10_000, max_len=MAX_LEN, mask_share=share)
    assert batch.num_rows > batch.num_windows  # some share their window
    return batch

"""Small models and ragged batches, and a recommender and a dataset of theirs: for tests of inference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rearec import Recommender
from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.data.batches import collate_histories
from rearec.data.dataset import SequenceDataset
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

NUM_ITEMS, MAX_LEN, STEPS = 17, 20, 3
# Batches of different padded shapes.
LENGTHS = ([3, 9, 1], [12], [2, 2, 2, 2, 2])


def model_of(method: str = "prl", dtype: torch.dtype = torch.float64, dim: int = 8) -> ReaRec:
    """A small model in evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    config = ReaRecConfig(NUM_ITEMS, method=method, steps=STEPS, dim=dim, ffn=12, max_len=MAX_LEN)
    model = ReaRec(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=dim**-0.5)
    return model


def batch_of(lengths: list[int], seed: int = 0, rows_per_window: int | None = 1) -> Batch:
    """Windows of these lengths and of random items, seen by that many rows each, or by 0 to 3 (None)."""
    draw = np.random.default_rng(seed)
    batch = collate_histories([draw.integers(NUM_ITEMS, size=length) for length in lengths], MAX_LEN)
    counts = np.full(len(lengths), rows_per_window) if rows_per_window else draw.integers(4, size=len(lengths))
    counts[draw.integers(len(lengths))] += not counts.any()
    row_prefix = np.repeat(np.arange(len(lengths)), counts)
    end = batch.lengths.numpy() if rows_per_window == 1 else draw.integers(1, np.asarray(lengths)[row_prefix] + 1)
    return replace(
        batch,
        row_prefix=torch.from_numpy(row_prefix.astype(np.int32)),
        end=torch.from_numpy(end.astype(np.int32)),
        target=torch.full((len(row_prefix),), IGNORE_INDEX),
        group=torch.from_numpy(row_prefix),
    )


def other_weights(model: ReaRec) -> dict[str, Tensor]:
    """As large as the model's own, and others."""
    return {name: value.flip(0) for name, value in model.state_dict().items()}


HISTORIES = [["3"], ["1", "16", "4"], ["9"] * 12, ["2", "5", "2"], ["0", "7"]]


def recommender_of(model: ReaRec, **options: Any) -> Recommender:
    return Recommender(model, Catalog([str(item) for item in range(NUM_ITEMS)], [1] * NUM_ITEMS), **options)


def dataset_of(users: int) -> SequenceDataset:
    """One test row per user, after 1 to 2 MAX_LEN items."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(2, 2 * MAX_LEN + 2, size=users)
    none, test = np.empty((0, 2), dtype=np.int32), np.stack([np.arange(users), lengths - 1], axis=1)
    return SequenceDataset(
        items=draw.integers(NUM_ITEMS, size=lengths.sum()).astype(np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
        sequence_user=np.arange(users, dtype=np.int32),
        split_rows={"train": none, "valid": none, "test": test.astype(np.int32)},
        item_ids=[str(item) for item in range(NUM_ITEMS)],
        user_ids=[str(user) for user in range(users)],
        statistics={},
    )

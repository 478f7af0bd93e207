"""Small BERT4Rec models, batches for both of its training tasks, and their states by recomputing everything."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from rollouts import MAX_LEN, NUM_ITEMS, dataset_of
from torch import Tensor

from rearec.data import SequenceDataset
from rearec.data.batches import MASK_ID, Batch
from rearec.data.cloze import ClozeBatches
from rearec.models import ReaRecConfig
from rearec.models.bert4rec import BERT4Rec
from rearec.models.encoder import TransformerLayer
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


def history_of(batch: Batch, row: int) -> Tensor:
    return batch.items[batch.row_prefix[row], : batch.end[row]]


def training_dataset() -> SequenceDataset:
    """All items but each user's first one are targets of training rows."""
    dataset = dataset_of(5)
    rows = [(s, p) for s, n in enumerate(np.diff(dataset.offsets)) for p in range(1, n)]
    return dataclasses.replace(dataset, split_rows={**dataset.split_rows, "train": np.asarray(rows, dtype=np.int32)})


def cloze_batch(share: float = 0.3) -> Batch:
    (batch,) = ClozeBatches(training_dataset(), batch_rows=10_000, max_len=MAX_LEN, mask_share=share)
    assert batch.num_rows > batch.num_windows  # some share their window
    return batch


def attended(layer: TransformerLayer, hidden: Tensor, sees: Tensor) -> Tensor:
    """One layer over a whole sequence [n, d] under an explicit mask [n, n]."""
    n = len(hidden)
    q, k, v = (x(hidden).view(n, layer.heads, -1).transpose(0, 1) for x in (layer.query, layer.key, layer.value))
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~sees, -math.inf)
    return layer.finish(hidden, (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1))


def recomputed_states(
    model: ReaRec, history: Tensor, steps: int, noise: list[Tensor] | None = None, slot: int | None = None
) -> Tensor:
    """h_0..h_K of one history: at every step all items and tokens run through all layers under the prefix mask.

    With `noise` (per step [d]) the tokens are those of the noised branch: clean state + RPE + noise. h_0 is the state
    at `slot`, None for the last item or, with the task cloze, for a mask behind it.
    """
    backbone = model.backbone
    assert isinstance(backbone, BERT4Rec)
    table = backbone.item_embedding.weight
    clean = recomputed_states(model, history, steps, slot=slot) if noise is not None else None
    if backbone.mask_embedding is not None:
        table = torch.cat([table, backbone.mask_embedding.weight])  # its last row is row -1
        if slot is None:
            history = torch.cat([history, torch.tensor([MASK_ID])])
    n = len(history)
    slot = n - 1 if slot is None else slot
    sequence = backbone.input_norm(table[history] + backbone.position_embedding.weight[:n])
    states: list[Tensor] = []
    for step in range(steps + 1):
        place = torch.arange(len(sequence))
        sees = (place < n) | ((place[:, None] >= n) & (place <= place[:, None]))
        hidden = sequence
        for layer in backbone.encoder.layers:
            hidden = attended(layer, hidden, sees)
        states.append(hidden[-1] if step else hidden[slot])
        if step < steps:
            token = states[-1] if clean is None or noise is None else clean[step] + noise[step]
            if model.reasoning_position_embedding is not None:
                token = token + model.reasoning_position_embedding.weight[step]
            sequence = torch.cat([sequence, backbone.input_norm(token)[None]])
    return torch.stack(states)


def all_recomputed(model: ReaRec, batch: Batch) -> Tensor:
    slots = [None] * batch.num_rows if batch.slot is None else batch.slot.tolist()
    rows = [
        recomputed_states(model, history_of(batch, row), model.config.steps, slot=slot)
        for row, slot in enumerate(slots)
    ]
    return torch.stack(rows)

"""The rollout written for reading: at every step all items and tokens of one row run through all layers again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rearec.data.batch import MASK_ID, Batch
from rearec.models.bert4rec import BERT4Rec
from rearec.models.encoder import TransformerLayer
from rearec.models.transformer import TransformerBackbone
from rearec.reasoning import ReaRec

__all__ = ["all_recomputed", "history_of", "recomputed_states"]


def history_of(batch: Batch, row: int) -> Tensor:
    return batch.items[batch.row_prefix[row], : batch.end[row]]


def all_recomputed(model: ReaRec, batch: Batch) -> Tensor:
    """The states of all rows, as they are scored, [R, K + 1, d]."""
    slots = [None] * batch.num_rows if batch.slot is None else batch.slot.tolist()
    rows = [
        recomputed_states(model, history_of(batch, row), model.config.steps, slot=slot)
        for row, slot in enumerate(slots)
    ]
    return torch.stack(rows)


def recomputed_states(
    model: ReaRec, history: Tensor, steps: int, noise: list[Tensor] | None = None, slot: int | None = None
) -> Tensor:
    """h_0..h_K of one history, as they are scored, [steps + 1, d].

    With `noise` (per step [d]) the tokens are those of the noised branch: clean state + RPE + noise. h_0 is the state
    at `slot`, None for the last item or, with the task cloze, for a mask behind it.
    """
    return model.backbone.scored(_states(model, history, steps, noise, slot))


def _states(model: ReaRec, history: Tensor, steps: int, noise: list[Tensor] | None, slot: int | None) -> Tensor:
    backbone = model.backbone
    assert isinstance(backbone, TransformerBackbone)
    clean = _states(model, history, steps, None, slot) if noise is not None else None
    table = backbone.item_tables()[0]
    if isinstance(backbone, BERT4Rec) and backbone.mask_embedding is not None:
        table = torch.cat([table, backbone.mask_embedding.weight])  # its last row is row -1
        if slot is None:
            history = torch.cat([history, torch.tensor([MASK_ID])])
    n = len(history)
    slot = n - 1 if slot is None else slot
    sequence = backbone.input_norm(table[history] + backbone.position_embedding.weight[:n])
    states: list[Tensor] = []
    for step in range(steps + 1):
        place = torch.arange(len(sequence))
        sees = place <= place[:, None]
        if backbone.encoder.bidirectional:
            sees |= (place < n) & (place[:, None] < n)
        hidden = sequence
        for layer in backbone.encoder.layers:
            assert isinstance(layer, TransformerLayer)
            hidden = _attended(layer, hidden, sees)
        states.append(hidden[-1] if step else hidden[slot])
        if step < steps:
            token = states[-1] if clean is None or noise is None else clean[step] + noise[step]
            if model.reasoning_position_embedding is not None:
                token = token + model.reasoning_position_embedding.weight[step]
            sequence = torch.cat([sequence, backbone.input_norm(token)[None]])
    return torch.stack(states)


def _attended(layer: TransformerLayer, hidden: Tensor, sees: Tensor) -> Tensor:
    """One layer over a whole sequence [n, d] under an explicit mask [n, n]."""
    n = len(hidden)
    q, k, v = (x(hidden).view(n, layer.heads, -1).transpose(0, 1) for x in (layer.query, layer.key, layer.value))
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~sees, -math.inf)
    return layer.finish(hidden, (scores.softmax(-1) @ v).transpose(0, 1).reshape(n, -1))

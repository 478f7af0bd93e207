"""Untrained models whose steps differ, for tests of the analyses."""

from __future__ import annotations

import torch

from rearec.data import SequenceDataset, collate_histories
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec


def random_model(dataset: SequenceDataset, method: str = "prl", seed: int = 0, steps: int = 2) -> ReaRec:
    """An untrained model whose states differ from step to step."""
    torch.manual_seed(seed)
    model = ReaRec(ReaRecConfig(dataset.num_items, method=method, steps=steps, dim=8, ffn=8, layers=1, max_len=6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return model.eval()


def states_of(model: ReaRec, dataset: SequenceDataset, row: int) -> torch.Tensor:
    """[T, d], the states of one test row, computed alone."""
    history = dataset.history(*dataset.rows("test")[row])
    with torch.no_grad():
        return model(collate_histories([history], model.config.max_len)).states[0]

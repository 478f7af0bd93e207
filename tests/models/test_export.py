"""torch.export takes the whole model; the exported program gives its answers, for other histories too."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec


class Scores(nn.Module):
    """The scores of all items after padded histories, each a row of its own."""

    def __init__(self, model: ReaRec) -> None:
        super().__init__()
        self.model = model

    def forward(self, items: Tensor, lengths: Tensor) -> Tensor:
        row = torch.arange(items.shape[0], dtype=torch.int32)
        target = torch.full((items.shape[0],), IGNORE_INDEX)
        batch = Batch(items=items, lengths=lengths, row_prefix=row, end=lengths, target=target, group=row.long())
        states = self.model.final_state(self.model(batch).states)
        return states @ self.model.weight.T


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_an_exported_model_answers_alike(method: str) -> None:
    torch.manual_seed(0)
    scores = Scores(ReaRec(ReaRecConfig(30, method=method, dim=16, ffn=16, layers=2, max_len=6)).eval())
    items, lengths = torch.randint(30, (3, 6)), torch.tensor([6, 1, 4], dtype=torch.int32)
    with torch.no_grad():
        program = torch.export.export(scores, (items, lengths))
        for seed in range(3):
            torch.manual_seed(seed)
            items, lengths = torch.randint(30, (3, 6)), torch.randint(1, 7, (3,), dtype=torch.int32)
            torch.testing.assert_close(program.module()(items, lengths), scores(items, lengths))

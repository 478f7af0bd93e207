"""Rows of an item table that several processes hold: the numbers that the whole one would begin with."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rearec.distributed import Processes, held_rows
from rearec.models import item_table
from rearec.models.item_table import SplitEmbedding, item_embedding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("num_items", "dim"), [(3, 2), (37, 5), (64, 4), (101, 7), (97, 16)])
def test_rows_begin_as_those_of_the_whole_table(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, num_items: int, dim: int
) -> None:
    """Drawn 64 numbers at a time; what is drawn afterwards is the same too."""
    monkeypatch.setattr(item_table, "DRAWN", 64)
    before = torch.tensor(0.0).dtype
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(3)
        whole = nn.Embedding(num_items, dim)
        nn.init.normal_(whole.weight, 0.0, 0.02)
        after = torch.rand(5)
        for rank in range(3):
            rows = held_rows(num_items, Processes(rank, 3))
            torch.manual_seed(3)
            part = item_embedding(num_items, dim, rows)
            assert isinstance(part, SplitEmbedding)
            part.draw(0.02)
            assert torch.equal(part.weight, whole.weight[rows.start : rows.stop])
            assert torch.equal(torch.rand(5), after)
    finally:
        torch.set_default_dtype(before)


def test_a_whole_table_or_its_rows_are_loaded() -> None:
    whole = torch.arange(20.0).view(10, 2)
    part = SplitEmbedding(10, 2, range(3, 7))
    state = {"weight": whole}
    part.load_state_dict(state)
    assert torch.equal(part.weight, whole[3:7]) and torch.equal(state["weight"], whole)
    part.load_state_dict({"weight": whole[:4]})
    assert torch.equal(part.weight, whole[:4])
    with pytest.raises(RuntimeError, match="size mismatch"):
        part.load_state_dict({"weight": whole[:5]})
    assert repr(part) == "SplitEmbedding(10, 2, rows 3..6)" and part.elsewhere == 12

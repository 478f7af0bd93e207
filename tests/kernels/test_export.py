"""torch.export with a number of rows that is left open: one program, other rows, the same values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim, export

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    annealed_cross_entropy,
    cached_reason_attention,
    catalog_rank,
    catalog_topk,
    dropout_add_layer_norm,
    ensemble_reasoning_loss,
    reasoning_info_nce,
)

WEIGHT = torch.randn(50, 8)


def attend(q: Tensor, prefix: Tensor, start: Tensor | None) -> Tensor:
    cache = ReasoningCache.from_prefix(prefix, prefix, max_tokens=2, rows=PrefixRows(start=start))
    return cached_reason_attention(cached_reason_attention(q, q, q, cache), q, q, cache)


CALLS: dict[str, Callable[..., Any]] = {
    "cross-entropy": lambda h, y, k: annealed_cross_entropy(h, WEIGHT, y, temperature=0.5),
    "cross-entropy rows": lambda h, y, k: annealed_cross_entropy(h, WEIGHT, y, temperature=[0.5, 1], reduction="none"),
    "cross-entropy with soft targets": lambda h, y, k: annealed_cross_entropy(
        h, WEIGHT, None, temperature=0.5, soft_target=(y[:, None], h[:, 0, :1].detach().abs())
    ),
    "ensemble": lambda h, y, k: ensemble_reasoning_loss(h, WEIGHT, y, temperature=0.5, kl_weight=0.1),
    "InfoNCE": lambda h, y, k: reasoning_info_nce(h, 2 * h, temperature=0.5, row_group=y),
    "top-k": lambda h, y, k: catalog_topk(h[:, 0], WEIGHT, 5, exclude=y),
    "rank": lambda h, y, k: catalog_rank(h[:, 0], WEIGHT, y),
    "rank with a bonus": lambda h, y, k: catalog_rank(h[:, 0], WEIGHT, y, target_bonus=h[:, 0, 1]),
    "LayerNorm": lambda h, y, k: dropout_add_layer_norm(h, h, WEIGHT[0], WEIGHT[1]),
    "attention": lambda h, y, k: attend(h, k, None),
    "attention with rows": lambda h, y, k: attend(h, k, y % 6),
}


class Module(nn.Module):
    def __init__(self, call: Callable[..., Any]) -> None:
        super().__init__()
        self.call = call

    def forward(self, hidden: Tensor, index: Tensor, prefix: Tensor) -> Any:
        return self.call(hidden, index, prefix)


def arguments(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(rows, 2, 8), torch.randint(0, 50, (rows,)), torch.randn(rows, 6, 2, 8)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("call", CALLS)
@torch.no_grad()
def test_rows_are_open(call: str, strict: bool) -> None:
    module, rows = Module(CALLS[call]), Dim("rows", min=2, max=1000)
    program = export(module, arguments(7), dynamic_shapes=({0: rows},) * 3, strict=strict).module()
    for count in (2, 13):
        given = arguments(count)
        got, expected = program(*given), module(*given)
        for a, b in zip(*((x,) if isinstance(x, Tensor) else x for x in (got, expected)), strict=True):
            assert torch.equal(a, b)


def test_an_exported_program_looks_at_values() -> None:
    module, rows = Module(CALLS["attention with rows"]), Dim("rows", min=2, max=1000)
    module.call = lambda h, y, k: attend(h, k, y)
    with torch.no_grad():
        given = arguments(4)
        program = export(module, (given[0], given[1] % 6, given[2]), dynamic_shapes=({0: rows},) * 3).module()
        with pytest.raises(ValueError, match="PrefixRows: row 0 has start 99"):
            program(given[0], torch.full((4,), 99), given[2])

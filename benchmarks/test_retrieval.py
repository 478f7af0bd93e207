"""Top-20 and rank over the catalogue, d = 256."""

from __future__ import annotations

from typing import Any

import careful
import naive
import pytest
import torch
from compare import compare

from rearec_kernels import catalog_rank, catalog_topk, prepare_catalog

WIDTH = 256
# How many times as long as ours the naive way should take: {(R, N): aim}
AIMS = {(32, 87_969): 6.0, (256, 87_969): 8.0, (32, 1_000_000): 6.0, (256, 1_000_000): 14.0}


def _problem(rows: int, items: int) -> tuple[torch.Tensor, torch.Tensor, careful.PreallocatedScores]:
    torch.manual_seed(0)
    return torch.randn(rows, WIDTH), torch.randn(items, WIDTH), careful.PreallocatedScores(rows, items)


@pytest.mark.parametrize("items", [22_933, 87_969, 1_000_000])
@pytest.mark.parametrize("rows", [1, 32, 256])
def test_topk(rows: int, items: int, report: Any) -> None:
    hidden, weight, scores = _problem(rows, items)
    catalog = prepare_catalog(weight)
    contenders = {
        "ours": lambda: catalog_topk(hidden, catalog, 20),
        "ours, not prepared": lambda: catalog_topk(hidden, weight, 20),
        "naive": lambda: naive.topk(hidden, weight, 20),
        "careful (buffer)": lambda: scores.topk(hidden, weight, 20),
    }
    assert (contenders["naive"]()[1] == contenders["ours"]()[1]).float().mean() > 0.999  # ties of rounding aside
    aim = AIMS.get((rows, items))
    targets = {("time", "naive"): (3.0, aim)} if aim else {}
    report(
        compare(f"top-20, R {rows}, N {items}, d {WIDTH}", contenders, targets=targets, seconds=3, least_runs=3),
        contenders["ours"],
    )


@pytest.mark.parametrize("rows", [256, 1024])
def test_rank(rows: int, report: Any) -> None:
    items = 22_933
    hidden, weight, scores = _problem(rows, items)
    target = torch.randint(items, (rows,))
    contenders = {
        "ours": lambda: catalog_rank(hidden, weight, target),
        "naive": lambda: naive.rank(hidden, weight, target),
        "careful (buffer)": lambda: scores.rank(hidden, weight, target),
    }
    assert (contenders["naive"]() == contenders["ours"]()).float().mean() > 0.99
    report(compare(f"rank of the target, R {rows}, N {items}, d {WIDTH}", contenders, seconds=3), contenders["ours"])

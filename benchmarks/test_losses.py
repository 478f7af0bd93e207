"""Full-catalogue losses: loss and both gradients, T = 3 states, d = 256, tau = 0.07, normalised logits of std 14."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import careful
import naive
import pytest
import torch
import torch.nn.functional as F
from compare import compare
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, annealed_temperatures, ensemble_reasoning_loss, reasoning_info_nce

STEPS, WIDTH, TEMPERATURE = 3, 256, 0.07
SIZES = [(512, 22_933)]
PAPER_SIZES = [(512, 87_969), (2048, 22_933)]


class Problem:
    def __init__(self, rows: int, items: int) -> None:
        torch.manual_seed(0)
        self.hidden = F.normalize(torch.randn(rows, STEPS, WIDTH), dim=-1).requires_grad_()
        self.weight = torch.randn(items, WIDTH).requires_grad_()
        self.target = torch.randint(items, (rows,))
        self.temperature = annealed_temperatures(TEMPERATURE, 1.5, STEPS - 1).float()
        self.step_weight = torch.tensor([0.5, 0.5, 1.0])

    def gradients(self, loss: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(loss(), (self.hidden, self.weight))


def sizes(paper_scale: bool) -> list[tuple[int, int]]:
    return SIZES + (PAPER_SIZES if paper_scale else [])


@pytest.mark.parametrize("size", range(len(SIZES + PAPER_SIZES)))
def test_annealed_cross_entropy(size: int, paper_scale: bool, report: Any) -> None:
    rows, items = _size(size, paper_scale)
    p = Problem(rows, items)
    arguments = (p.hidden, p.weight, p.target, p.temperature, p.step_weight)
    host = {"temperature": p.temperature.tolist(), "step_weight": p.step_weight.tolist()}
    contenders = {
        "ours": p.gradients(lambda: annealed_cross_entropy(p.hidden, p.weight, p.target, **host)),
        "naive": p.gradients(lambda: naive.annealed_cross_entropy(*arguments)),
        "careful (chunked)": p.gradients(lambda: careful.annealed_cross_entropy(*arguments)),
    }
    if hasattr(F, "linear_cross_entropy"):
        contenders["F.linear_cross_entropy"] = p.gradients(lambda: careful.linear_cross_entropy(*arguments))
    _agree(contenders)
    targets = {("time", "naive"): (1.15, 1.8), ("memory", "naive"): (6.0, 12.0)} if size == 0 else {}
    name = f"annealed cross-entropy, loss + gradients, R {rows}, T {STEPS}, N {items}, d {WIDTH}"
    report(compare(name, contenders, targets=targets, seconds=12), contenders["ours"])


@pytest.mark.parametrize("size", range(len(SIZES + PAPER_SIZES)))
def test_ensemble_reasoning_loss(size: int, paper_scale: bool, report: Any) -> None:
    rows, items = _size(size, paper_scale)
    p = Problem(rows, items)
    arguments = (p.hidden, p.weight, p.target, TEMPERATURE, 0.05)
    contenders = {
        "ours": p.gradients(
            lambda: ensemble_reasoning_loss(p.hidden, p.weight, p.target, temperature=TEMPERATURE, kl_weight=0.05).loss
        ),
        "naive": p.gradients(lambda: naive.ensemble_loss(*arguments)),
        "careful (chunked)": p.gradients(lambda: careful.ensemble_loss(*arguments)),
    }
    _agree(contenders, without="naive")  # its gradients may be NaN here
    targets = {("time", "naive"): (4.0, 8.0), ("memory", "naive"): (15.0, 25.0)} if size == 0 else {}
    name = f"ensemble reasoning loss, loss + gradients, R {rows}, T {STEPS}, N {items}, d {WIDTH}"
    report(compare(name, contenders, targets=targets, seconds=15, least_runs=3), contenders["ours"])


@pytest.mark.parametrize("rows", [512, 2048])
def test_reasoning_info_nce(rows: int, report: Any) -> None:
    torch.manual_seed(0)
    noised, clean = (F.normalize(torch.randn(rows, 2, WIDTH), dim=-1).requires_grad_() for _ in range(2))

    def gradients(loss: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(loss(), (noised, clean))

    contenders = {
        "ours": gradients(lambda: reasoning_info_nce(noised, clean, temperature=TEMPERATURE)),
        "naive": gradients(lambda: naive.info_nce(noised, clean, TEMPERATURE)),
        "careful (bmm)": gradients(lambda: careful.info_nce(noised, clean, TEMPERATURE)),
    }
    _agree(contenders)
    targets = {("time", "naive"): (2.5, 3.5)} if rows == 2048 else {}
    name = f"reasoning InfoNCE, loss + gradients, R {rows}, T 2, d {WIDTH}"
    report(compare(name, contenders, targets=targets), contenders["ours"])


def _size(size: int, paper_scale: bool) -> tuple[int, int]:
    available = sizes(paper_scale)
    if size >= len(available):
        pytest.skip("runs with --paper-scale")
    return available[size]


def _agree(contenders: dict[str, Callable[[], tuple[Tensor, ...]]], without: str = "") -> None:
    expected = contenders["ours"]()
    for who, call in contenders.items():
        if who not in ("ours", without):
            for a, b in zip(call(), expected, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()))

"""Full-catalogue losses: loss and both gradients, T = 3 states, d = 256, tau = 0.07, normalised logits of std 14."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import careful
import naive
import pytest
import torch
import torch.nn.functional as F
from compare import compare
from on_gpu.losses import FUSED
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, annealed_temperatures, ensemble_reasoning_loss, reasoning_info_nce

STEPS, WIDTH, TEMPERATURE = 3, 256, 0.07
# Largest distance to ours in fp32, as a part of it. Plain PyTorch also rounds logits and their gradients to bf16.
AGREEMENT = {"fp32": 1e-4, "bf16x3": 1e-4, "autocast bf16": 6e-2, "bf16": 2e-2}
Gradients = Callable[[], tuple[Tensor, ...]]
SIZES = [(512, 22_933)]
PAPER_SIZES = [(512, 87_969), (2048, 22_933)]


class Problem:
    def __init__(self, rows: int, items: int, states: int = STEPS) -> None:
        torch.manual_seed(0)
        self.hidden = F.normalize(torch.randn(rows, states, WIDTH), dim=-1).requires_grad_()
        self.weight = torch.randn(items, WIDTH).requires_grad_()
        self.target = torch.randint(items, (rows,))
        self.temperature = annealed_temperatures(TEMPERATURE, 1.5, states - 1).float()
        self.step_weight = torch.tensor([1 / (states - 1)] * (states - 1) + [1.0])

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
    ours, absent = _ours(
        lambda precision: p.gradients(
            lambda: annealed_cross_entropy(p.hidden, p.weight, p.target, **host, precision=precision)
        )
    )
    torch.compiler.reset()
    compiled = torch.compile(naive.annealed_cross_entropy, dynamic=False)
    contenders = ours | {
        "naive": p.gradients(lambda: naive.annealed_cross_entropy(*arguments)),
        "naive, autocast bf16": p.gradients(lambda: _autocast(lambda: naive.annealed_cross_entropy(*arguments))),
        "torch.compile(naive)": p.gradients(lambda: compiled(*arguments)),
        "careful (chunked)": p.gradients(lambda: careful.annealed_cross_entropy(*arguments)),
    }
    for who, find in FUSED.items():
        try:
            contenders[who] = p.gradients(partial(careful.step_by_step, find(), *arguments))
            contenders[who]()
        except Exception as error:  # theirs: not installed, or for GPUs only
            contenders.pop(who, None)
            absent[who] = f"{type(error).__name__}: {error}".splitlines()[0]
    _agree(contenders)
    targets = {}
    if size == 0:
        targets = {("time", "naive"): (1.15, 1.8), ("memory", "naive"): (6.0, 12.0)}
        targets |= {("time", "naive", "ours, bf16"): (4.0, 8.0), ("time", "naive", "ours, bf16x3"): (2.0, 4.0)}
    name = f"annealed cross-entropy, loss + gradients, R {rows}, T {STEPS}, N {items}, d {WIDTH}"
    report(compare(name, contenders, targets=targets, absent=absent, seconds=10, least_runs=3), contenders["ours"])


@pytest.mark.parametrize("size", range(len(SIZES + PAPER_SIZES)))
def test_ensemble_reasoning_loss(size: int, paper_scale: bool, report: Any) -> None:
    rows, items = _size(size, paper_scale)
    p = Problem(rows, items)
    arguments = (p.hidden, p.weight, p.target, TEMPERATURE, 0.05)
    host = {"temperature": TEMPERATURE, "kl_weight": 0.05}
    ours, absent = _ours(
        lambda precision: p.gradients(
            lambda: ensemble_reasoning_loss(p.hidden, p.weight, p.target, **host, precision=precision).loss
        )
    )
    contenders = ours | {
        "naive": p.gradients(lambda: naive.ensemble_loss(*arguments)),
        "careful (chunked)": p.gradients(lambda: careful.ensemble_loss(*arguments)),
    }
    _agree(contenders, without="naive")  # its gradients may be NaN here
    targets = {}
    if size == 0:
        targets = {("time", "naive"): (4.0, 8.0), ("memory", "naive"): (15.0, 25.0)}
        targets |= {("time", "naive", "ours, bf16"): (10.0, 35.0)}
    name = f"ensemble reasoning loss, loss + gradients, R {rows}, T {STEPS}, N {items}, d {WIDTH}"
    report(compare(name, contenders, targets=targets, absent=absent, seconds=10, least_runs=3), contenders["ours"])


@pytest.mark.parametrize("rows", [512, 2048])
def test_reasoning_info_nce(rows: int, report: Any) -> None:
    torch.manual_seed(0)
    noised, clean = (F.normalize(torch.randn(rows, 2, WIDTH), dim=-1).requires_grad_() for _ in range(2))

    def gradients(loss: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, ...]]:
        return lambda: torch.autograd.grad(loss(), (noised, clean))

    ours, absent = _ours(
        lambda precision: gradients(
            lambda: reasoning_info_nce(noised, clean, temperature=TEMPERATURE, precision=precision)
        )
    )
    torch.compiler.reset()
    compiled = torch.compile(naive.info_nce, dynamic=False)
    contenders = ours | {
        "naive": gradients(lambda: naive.info_nce(noised, clean, TEMPERATURE)),
        "naive, autocast bf16": gradients(lambda: _autocast(lambda: naive.info_nce(noised, clean, TEMPERATURE))),
        "torch.compile(naive)": gradients(lambda: compiled(noised, clean, TEMPERATURE)),
        "careful (bmm)": gradients(lambda: careful.info_nce(noised, clean, TEMPERATURE)),
    }
    _agree(contenders)
    targets = {("time", "naive"): (2.5, 3.5)} if rows == 2048 else {}
    name = f"reasoning InfoNCE, loss + gradients, R {rows}, T 2, d {WIDTH}"
    report(compare(name, contenders, targets=targets, absent=absent), contenders["ours"])


def _size(size: int, paper_scale: bool) -> tuple[int, int]:
    available = sizes(paper_scale)
    if size >= len(available):
        pytest.skip("runs with --paper-scale")
    return available[size]


def _ours(make: Callable[[str], Gradients]) -> tuple[dict[str, Gradients], dict[str, str]]:
    """Ours in every precision that is served here, and why the others are not."""
    found: dict[str, Gradients] = {}
    absent: dict[str, str] = {}
    for precision in ("fp32", "bf16", "bf16x3"):
        who = "ours" if precision == "fp32" else f"ours, {precision}"
        call = make(precision)
        try:
            call()
        except ValueError as error:
            absent[who] = str(error)
        else:
            found[who] = call
    return found, absent


def _autocast(loss: Callable[[], Tensor]) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return loss()


def _agree(contenders: dict[str, Gradients], without: str = "") -> None:
    expected = contenders["ours"]()
    for who, call in contenders.items():
        if who not in ("ours", without):
            bound = next((bound for name, bound in AGREEMENT.items() if name in who), AGREEMENT["fp32"])
            for a, b in zip(call(), expected, strict=True):
                distance = float((a.float() - b).norm() / b.norm())
                assert distance <= bound, f"{who}: {distance:.1e} from ours, at most {bound:.0e} expected"

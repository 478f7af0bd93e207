"""Soft targets beside the kernels by tiles, which few processors have: their pass over the catalogue is imitated."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from backends import own_registry
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, available_backends, use_backend
from rearec_kernels.backends import find, register
from rearec_kernels.precision import held, product

if "cpu" not in available_backends("cpu"):
    pytest.skip("no native module in this install", allow_module_level=True)

from rearec_kernels.cpu import losses, tiled_softmax
from rearec_kernels.cpu.softmax import Passes

ROWS, STATES, WIDTH, ITEMS, PLACES = 70, 3, 24, 333, 5


def at(address: int, *shape: int) -> Tensor:
    count = int(torch.Size(shape).numel())
    return torch.frombuffer((ctypes.c_float * count).from_address(address), dtype=torch.float32).view(shape)


class Imitated(tiled_softmax.TiledSoftmax):
    """Computes what csrc/cpu/tiles does, from the same addresses; without targets, which is all that it is asked."""

    def _call(self, kernel: Any, passes: Passes, arguments: tuple[Any, ...]) -> None:
        assert (self.target == -1).all()
        shape = self.target.shape[0], self.steps
        scale = at(arguments[0], self.steps)[:, None]
        shift, norm = (at(address, *shape) for address in arguments[1:3])
        h, e = self.rows.view(*shape, -1), self.table
        if self.precision == "bf16":
            h, e = held(h, "bf16"), held(e, "bf16")
        z = product(h, e.T, self.precision)
        if passes.statistics:
            shift.copy_(z.amax(-1))
            norm.copy_(((z - shift[..., None]) * scale).exp().sum(-1))
        if passes.gradient:
            weight = at(arguments[4], *shape) * scale.squeeze(1) / norm
            dz = held(weight[..., None] * ((z - shift[..., None]) * scale).exp(), self.precision)
            if self.grad_rows is not None:
                self.grad_rows.copy_((dz @ e).flatten(0, 1))
            if self.grad_table is not None:
                self.grad_table.copy_(dz.flatten(0, 1).T @ h.flatten(0, 1))


@pytest.fixture(autouse=True)
def tiles(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(losses, "_softmax_kind", lambda precision: Imitated)
    monkeypatch.setattr(tiled_softmax, "native", SimpleNamespace(TILES=SimpleNamespace(cross_entropy=None)))
    cpu = find("cpu")
    serves = replace(cpu.serves["annealed_cross_entropy"], precisions=("fp32", "bf16", "bf16x3"))
    with own_registry():
        register(replace(cpu, serves={**cpu.serves, "annealed_cross_entropy": serves}))
        yield


class Problem:
    def __init__(self, likely: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        self.hidden = torch.randn(ROWS, STATES, WIDTH, generator=generator)
        self.weight = torch.randn(ITEMS, WIDTH, generator=generator)
        self.items = torch.randint(-1, ITEMS, (ROWS, PLACES), generator=generator)
        self.items[:, 1] = self.items[:, 0]
        self.mass = torch.rand(ROWS, STATES, PLACES, generator=generator)
        if likely:  # all of the mass where nearly all of the probability is
            best = (self.hidden[:, 0] @ self.weight.T).argmax(-1)
            self.hidden[:] = 3 * self.weight[best][:, None]
            self.items, self.mass = best[:, None], torch.ones(ROWS, STATES, 1)
        self.target = torch.zeros(ROWS, dtype=torch.int64)
        self.target[4::5] = -100
        self.upstream = torch.randn(ROWS, STATES, generator=generator)

    def loss(self, hidden: Tensor, weight: Tensor, precision: str, reduction: str = "mean") -> Tensor:
        return annealed_cross_entropy(
            hidden, weight, self.target, temperature=[2.0, 1.5, 1.0], soft_target=(self.items, self.mass),
            reduction=reduction, precision=precision,
        )  # fmt: skip

    def run(self, backend: str, precision: str, reduction: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (self.hidden, self.weight)]
        with use_backend(backend):
            loss = self.loss(leaves[0], leaves[1], precision, reduction)
        weighted = loss * self.upstream if reduction == "none" else loss
        return [loss.detach(), *torch.autograd.grad(weighted.sum(), leaves)]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("precision", "allowed"), [("bf16", 2e-2), ("bf16x3", 1e-4)])
def test_as_near_as_the_precision_is(precision: str, allowed: float, reduction: str) -> None:
    problem = Problem(likely=False)
    exact = problem.run("reference", "fp32", reduction, torch.float64)
    for got, right in zip(problem.run("cpu", precision, reduction), exact, strict=True):
        assert (got - right).abs().max() <= allowed * right.abs().max()


@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
def test_a_likely_target_leaves_no_rounding_of_the_softmax_behind(precision: str) -> None:
    """Its gradient is (p - 1) times the item, far below the rounding of p alone."""
    problem = Problem(likely=True)
    exact = problem.run("reference", precision, "mean", torch.float64)
    assert exact[1].abs().max() < 1e-4
    for got, right in zip(problem.run("cpu", precision, "mean")[1:], exact[1:], strict=True):
        assert (got - right).abs().max() <= 1e-2 * right.abs().max()


def test_gradients_one_at_a_time() -> None:
    problem = Problem(likely=False)
    both = problem.run("cpu", "bf16x3", "mean")[1:]
    for i in (0, 1):
        leaves = [x.clone().requires_grad_(i == j) for j, x in enumerate((problem.hidden, problem.weight))]
        with use_backend("cpu"):
            loss = problem.loss(leaves[0], leaves[1], "bf16x3")
        assert torch.equal(torch.autograd.grad(loss, leaves[i])[0], both[i])

"""Soft targets beside the kernels by tiles, whose pass over the catalogue knows nothing of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, use_backend

pytestmark = pytest.mark.usefixtures("by_tiles")
ROWS, STATES, WIDTH, ITEMS, PLACES = 70, 3, 24, 333, 5


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
    """Its gradient is (p - 1) times the item, far below the rounding of p to bfloat16: what may be wrong is what some
    roundings of the logit to float32 do to p, as its product is another one than that of the softmax."""
    problem = Problem(likely=True)
    exact = problem.run("reference", precision, "mean", torch.float64)
    assert exact[1].abs().max() < 1e-4
    logits = (problem.hidden[:, 0] @ problem.weight.T).amax()
    counted = problem.target[problem.target >= 0].shape[0]
    of_probability = 4 * 2**-24 * logits / counted
    assert of_probability < 0.01 * 2**-9  # of which the rounding to bfloat16 would be many times as much
    together = problem.items.unique(return_counts=True)[1].max()  # rows with the same item
    largest = problem.weight.abs().max(), together * problem.hidden.abs().max()
    for got, right, value in zip(problem.run("cpu", precision, "mean")[1:], exact[1:], largest, strict=True):
        assert (got - right).abs().max() <= of_probability * value


def test_gradients_one_at_a_time() -> None:
    problem = Problem(likely=False)
    both = problem.run("cpu", "bf16x3", "mean")[1:]
    for i in (0, 1):
        leaves = [x.clone().requires_grad_(i == j) for j, x in enumerate((problem.hidden, problem.weight))]
        with use_backend("cpu"):
            loss = problem.loss(leaves[0], leaves[1], "bf16x3")
        assert torch.equal(torch.autograd.grad(loss, leaves[i])[0], both[i])

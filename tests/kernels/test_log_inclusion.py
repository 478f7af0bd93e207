"""Sampled softmax: the losses over a sample of the catalogue, corrected for each item's probability to be in it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, annealed_temperatures, ensemble_reasoning_loss, use_backend
from rearec_kernels.backends import find

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
every_backend = pytest.mark.parametrize("backend", BACKENDS)
reductions = pytest.mark.parametrize("reduction", ["mean", "none"])
IGNORED = -100
SHAPES = [(1, 1, 1, 1), (5, 1, 8, 3), (7, 2, 5, 17), (40, 3, 24, 333), (9, 6, 64, 130)]  # rows, states, width, items


class Problem:
    """Random float64 inputs that are exact in `dtype`; every third row is ignored, items that are no target are there
    with probabilities between 1e-6 and 1."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype = torch.float32) -> None:
        rows, states, width, items = shape
        generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items)
        hidden = torch.randn(rows, states, width, generator=generator)
        weight = torch.randn(items, width, generator=generator) * width**-0.5
        self.hidden, self.weight = (x.to(dtype).double() for x in (hidden, weight))
        self.target = torch.randint(0, items, (rows,), generator=generator)
        self.target[2::3] = IGNORED
        log_inclusion = -13.8 * torch.rand(items, generator=generator)
        self.log_inclusion = log_inclusion.index_fill(0, self.target.clamp(min=0), 0.0)
        self.temperature = annealed_temperatures(0.3, 1.5, states - 1)
        self.step_weight = torch.linspace(0.5, 2, states, device="cpu")
        self.upstream = torch.linspace(-1, 2, rows * states, dtype=torch.float64).view(rows, states)

    def leaves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.hidden.to(dtype, copy=True).requires_grad_(), self.weight.to(dtype, copy=True).requires_grad_()

    def gradients(self, losses: Tensor, leaves: tuple[Tensor, Tensor]) -> list[Tensor]:
        loss = (losses * self.upstream.to(losses.dtype)).sum() if losses.dim() else losses
        return [losses.detach(), *torch.autograd.grad(loss, leaves)]

    def plain(self, dtype: torch.dtype, reduction: str, rounded: bool = False) -> list[Tensor]:
        """Written out: the target's exp(z) and every other item's, over its probability."""
        hidden, weight = leaves = self.leaves(dtype)
        operands = (x.to(torch.bfloat16) if rounded else x for x in (hidden, weight))
        z = torch.einsum("rtd,nd->rtn", *operands) / self.temperature.to(hidden.device, dtype)[:, None]
        own = z.gather(2, self.target.clamp(min=0)[:, None, None].expand(*z.shape[:2], 1))
        corrected = z - self.log_inclusion.to(z.dtype)
        losses = (corrected.logsumexp(2) - own.squeeze(2)) * self.step_weight.to(z)
        counted = (self.target != IGNORED)[:, None]
        losses = losses * counted if reduction == "none" else (losses * counted).sum() / counted.sum().clamp(min=1)
        return self.gradients(losses, leaves)

    def kernel(self, dtype: torch.dtype, reduction: str, precision: str = "fp32") -> list[Tensor]:
        leaves = self.leaves(dtype)
        losses = annealed_cross_entropy(
            *leaves, self.target, temperature=self.temperature, step_weight=self.step_weight,
            log_inclusion=self.log_inclusion, reduction=reduction, precision=precision,
        )  # fmt: skip
        return self.gradients(losses, leaves)


@reductions
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_backend
def test_values_and_gradients_are_as_accurate_as_plain_pytorch(
    backend: str, dtype: torch.dtype, shape: Any, reduction: str, assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, dtype)
    with use_backend(backend):
        got = problem.kernel(dtype, reduction)
    for x in zip(got, problem.plain(dtype, reduction), problem.plain(torch.float64, reduction), strict=True):
        assert_as_accurate(*x)


@reductions
@every_backend
def test_bf16_rounds_neither_probabilities_nor_temperatures(backend: str, reduction: str) -> None:
    """Of operands that bfloat16 holds, the loss is as exact as in float32: log q of 8 bits would be 0.03 off."""
    problem = Problem((40, 3, 24, 333), torch.bfloat16)
    with use_backend(backend):
        got, *gradients = problem.kernel(torch.float32, reduction, "bf16")
    exact, *exact_gradients = problem.plain(torch.float64, reduction)
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    for x, y in zip(gradients, exact_gradients, strict=True):  # those are made of logits' gradients of 8 bits
        assert (x - y).abs().max() <= 2**-7 * y.abs().max()


@pytest.mark.parametrize(
    "backend",
    [
        x
        for x in ("reference", "cpu")
        if x in BACKENDS and "bf16x3" in find(x).serves["annealed_cross_entropy"].precisions
    ],
)
def test_bf16x3_is_near_float32(backend: str) -> None:
    problem = Problem((40, 3, 24, 333))
    with use_backend(backend):
        got = problem.kernel(torch.float32, "none", "bf16x3")
    for x, y in zip(got, problem.plain(torch.float64, "none"), strict=True):
        assert (x - y).abs().max() <= 1e-4 * y.abs().max()


def test_float64_is_float64() -> None:
    problem = Problem((40, 3, 24, 333))
    with use_backend("reference"):
        got = problem.kernel(torch.float64, "none")
    for x, y in zip(got, problem.plain(torch.float64, "none"), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


def test_the_mean_over_all_samples_is_the_sum_over_the_catalogue() -> None:
    """Every sample of 3 of the 6 items that are no target: exp(loss + z of the target) is unbiased."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(*n, generator=generator, dtype=torch.float64) for n in ((3, 2, 4), (8, 4)))
    temperature = torch.tensor([0.9, 0.4])
    target = torch.tensor([0, 1, 0])
    z = torch.einsum("rtd,nd->rtn", hidden, weight) / temperature[:, None]
    own = z.gather(2, target[:, None, None].expand(3, 2, 1)).squeeze(2)
    found, losses = [], []
    for drawn in itertools.combinations(range(2, 8), 3):
        log_inclusion = torch.tensor([0.0, 0.0] + [math.log(3 / 6)] * 3, dtype=torch.float64)
        with use_backend("reference"):
            loss = annealed_cross_entropy(
                hidden, weight[[0, 1, *drawn]], target, temperature=temperature, log_inclusion=log_inclusion,
                reduction="none",
            )  # fmt: skip
        found.append((loss + own).exp())
        losses.append(loss)
    torch.testing.assert_close(torch.stack(found).mean(0), z.exp().sum(2), rtol=1e-12, atol=0)
    assert bool((torch.stack(losses).mean(0) < z.logsumexp(2) - own).all())  # the logarithm is concave


@every_backend
def test_a_sample_of_everything_is_the_whole_loss(backend: str) -> None:
    problem = Problem((20, 2, 16, 50))
    zeros = torch.zeros(50)
    hidden, weight = problem.leaves(torch.float32)
    soft = torch.arange(40).view(20, 2), torch.rand(20, 2)
    with use_backend(backend):
        for options in ({}, {"soft_target": soft}):
            common: dict[str, Any] = {"temperature": [0.5, 0.3], **options}
            whole = annealed_cross_entropy(hidden, weight, problem.target, **common)
            sampled = annealed_cross_entropy(hidden, weight, problem.target, log_inclusion=zeros, **common)
            torch.testing.assert_close(sampled, whole)
        for form in ("official", "paper"):
            common = {"temperature": 0.5, "kl_weight": 0.3, "kl_form": form}
            whole = ensemble_reasoning_loss(hidden, weight, problem.target, **common)
            sampled = ensemble_reasoning_loss(hidden, weight, problem.target, log_inclusion=zeros, **common)
            torch.testing.assert_close(list(sampled), list(whole))


@pytest.mark.parametrize("form", ["official", "paper"])
@every_backend
def test_an_item_of_probability_one_half_counts_as_two(backend: str, form: str) -> None:
    """In all losses: 1 / q copies of every item that is no target, written out as a larger table."""
    problem = Problem((9, 3, 12, 20))
    copies = torch.full((20,), 4).index_fill(0, problem.target.clamp(min=0), 1)
    log_inclusion = -copies.log()
    hidden, weight = problem.leaves(torch.float32)
    first = copies.cumsum(0) - copies
    target = torch.where(problem.target < 0, IGNORED, first[problem.target.clamp(min=0)])
    soft = problem.target.clamp(min=0)[:, None], torch.full((9, 1), 0.7)
    repeated = weight.repeat_interleave(copies, 0)
    with use_backend(backend):
        for got, expected in (
            (
                ensemble_reasoning_loss(
                    hidden, weight, problem.target, temperature=0.4, kl_weight=0.3, kl_form=form,
                    log_inclusion=log_inclusion,
                ).loss,
                ensemble_reasoning_loss(
                    hidden, repeated, target, temperature=0.4, kl_weight=0.3, kl_form=form
                ).loss,
            ),
            (
                annealed_cross_entropy(
                    hidden, weight, None, temperature=0.4, soft_target=soft, log_inclusion=log_inclusion
                ),
                annealed_cross_entropy(hidden, repeated, None, temperature=0.4, soft_target=(first[soft[0]], soft[1])),
            ),
        ):  # fmt: skip
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
            for x, y in zip(
                torch.autograd.grad(got, (hidden, weight), retain_graph=True),
                torch.autograd.grad(expected, (hidden, weight), retain_graph=True),
                strict=True,
            ):
                torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


@every_backend
def test_sharp_temperature_and_rare_items(backend: str, assert_as_accurate: Callable) -> None:
    problem = Problem((16, 2, 32, 100))
    problem.weight *= 4
    problem.temperature = torch.tensor([0.05, 1e4])
    problem.log_inclusion = torch.full((100,), -25.0).index_fill(0, problem.target.clamp(min=0), 0.0)
    with use_backend(backend):
        got = problem.kernel(torch.float32, "none")
    for x in zip(got, problem.plain(torch.float32, "none"), problem.plain(torch.float64, "none"), strict=True):
        assert_as_accurate(*x)


HIDDEN, WEIGHT, TARGET, ZEROS = torch.zeros(4, 3, 8), torch.zeros(10, 8), torch.tensor([0, 1, -100, 0]), torch.zeros(10)
SOFT = torch.tensor([[0, -1], [1, 3], [0, 0], [0, 2]]), torch.ones(4, 2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (0.5, TypeError, r"log_inclusion must be a floating-point tensor \[N\], got float"),
        (ZEROS.long(), TypeError, r"log_inclusion must be a floating-point tensor \[N\], got torch.int64 \[10\]"),
        (ZEROS[:9], ValueError, r"log_inclusion must have shape \[N\] with N = 10, got \[9\]"),
        (ZEROS.to("meta"), ValueError, "log_inclusion is on meta, hidden on cpu"),
        (ZEROS.clone().requires_grad_(), ValueError, "log_inclusion is not differentiated"),
        (ZEROS + 0.5, ValueError, "log_inclusion must be finite and at most 0, got 0.5 for item 0"),
        (ZEROS - math.inf, ValueError, "log_inclusion must be finite and at most 0, got -inf for item 0"),
        (
            ZEROS.index_fill(0, torch.tensor([1]), -2.0),
            ValueError,
            "must be 0 for every target, .* got -2.0 for item 1",
        ),
    ],
)
@pytest.mark.parametrize("loss", [annealed_cross_entropy, ensemble_reasoning_loss])
def test_what_is_no_log_inclusion(loss: Any, given: Any, error: type[Exception], message: str) -> None:
    options = {"kl_weight": 0.1} if loss is ensemble_reasoning_loss else {}
    with pytest.raises(error, match=message):
        loss(HIDDEN, WEIGHT, TARGET, temperature=0.5, log_inclusion=given, **options)


def test_soft_targets_are_there_for_certain_too() -> None:
    rare = ZEROS.index_fill(0, torch.tensor([3, 9]), -2.0)
    annealed_cross_entropy(HIDDEN, WEIGHT, TARGET, temperature=0.5, log_inclusion=rare)
    ignored = torch.tensor([0, -100, -100, 0])  # the row that has item 3
    annealed_cross_entropy(HIDDEN, WEIGHT, ignored, temperature=0.5, soft_target=SOFT, log_inclusion=rare)
    with pytest.raises(ValueError, match=r"must be 0 for every target, .* got -2.0 for item 3"):
        annealed_cross_entropy(HIDDEN, WEIGHT, TARGET, temperature=0.5, soft_target=SOFT, log_inclusion=rare)


def test_a_target_out_of_range_is_told_as_ever() -> None:
    with pytest.raises(IndexError, match=r"target\[1\] is 10, expected an item"):
        annealed_cross_entropy(
            HIDDEN, WEIGHT, torch.tensor([0, 10, 0, 0]), temperature=0.5, log_inclusion=ZEROS, reduction="none"
        )

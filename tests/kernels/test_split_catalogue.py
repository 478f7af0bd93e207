"""The native passes of the losses over a catalogue in two parts: between statistics and gradients, only a reduction.

What a table that is split over processes needs. Each part computes the statistics of its own columns; maxima are
taken, sums rescaled and added; each part then turns its own logits into its part of the gradient.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rearec_kernels import available_backends

if "cpu" not in available_backends("cpu"):
    pytest.skip("no native module in this install", allow_module_level=True)

from rearec_kernels import _C

USERS, STEPS, COLUMNS, SPLIT = 7, 3, 45, 18
INVERSE_TEMPERATURE = 1 / 0.4


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(USERS * STEPS, COLUMNS, generator=torch.Generator().manual_seed(0)) * 3


@pytest.fixture
def target() -> Tensor:
    return torch.randint(0, COLUMNS, (USERS,), generator=torch.Generator().manual_seed(1))


class Part:
    """Some columns of the logits in a padded buffer of their own; targets elsewhere are -1."""

    def __init__(self, logits: Tensor, target: Tensor, first: int, end: int) -> None:
        self.buffer = torch.full((logits.shape[0], -(-(end - first) // 16) * 16), float("nan"))
        self.values = self.buffer[:, : end - first]
        self.values.copy_(logits[:, first:end])
        self.target = torch.where((target >= first) & (target < end), target - first, -1)

    def arguments(self) -> tuple[int, ...]:
        values = self.values
        return values.data_ptr(), *values.shape, values.stride(0), STEPS, self.target.data_ptr(), 1


def parts_of(logits: Tensor, target: Tensor) -> list[Part]:
    return [Part(logits, target, 0, SPLIT), Part(logits, target, SPLIT, COLUMNS)]


def reduce(shifts: list[Tensor], sums: list[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The common maximum, the sums relative to it, and each part's factor to get there."""
    shift = torch.stack(shifts).amax(0)
    factors = [((s - shift) * INVERSE_TEMPERATURE).exp() for s in shifts]
    return shift, sum(x * f for x, f in zip(sums, factors, strict=True)), factors


def test_cross_entropy(logits: Tensor, target: Tensor) -> None:
    temperature = torch.full((STEPS,), INVERSE_TEMPERATURE)
    coefficient = torch.rand(USERS * STEPS)
    parts = parts_of(logits, target)
    statistics = [torch.empty(3, USERS * STEPS) for _ in parts]
    for part, (shift, norm, target_logit) in zip(parts, statistics, strict=True):
        addresses = (x.data_ptr() for x in (shift, norm, target_logit, coefficient))
        _C.cross_entropy_statistics(part.arguments(), temperature.data_ptr(), *addresses, False)
    shift, norm, _ = reduce([s[0] for s in statistics], [s[1] for s in statistics])
    # A part without the target says 0 for it.
    owned = [part.target.repeat_interleave(STEPS) >= 0 for part in parts]
    target_logit = sum(
        torch.where(own, s[2] + (s[0] - shift) * INVERSE_TEMPERATURE, 0.0)
        for own, s in zip(owned, statistics, strict=True)
    )
    for part in parts:
        addresses = (x.data_ptr() for x in (shift, norm, target_logit, coefficient))
        _C.cross_entropy_gradient(part.arguments(), temperature.data_ptr(), *addresses, False)

    z = logits.double().requires_grad_()
    losses = torch.nn.functional.cross_entropy(
        z * INVERSE_TEMPERATURE, target.repeat_interleave(STEPS), reduction="none"
    )
    (expected,) = torch.autograd.grad((losses * coefficient).sum(), z)
    torch.testing.assert_close((norm.log() - target_logit).double(), losses.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.cat([p.values for p in parts], 1).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("paper", [False, True])
def test_ensemble(paper: bool, logits: Tensor, target: Tensor) -> None:
    coefficients = (0.7, -0.3)

    def run(kernel: str, part: Part, *tensors: Tensor) -> None:
        addresses = (x.data_ptr() for x in tensors)
        getattr(_C, kernel)(part.arguments(), INVERSE_TEMPERATURE, paper, *addresses, *coefficients, False)

    def empty() -> list[Tensor]:
        return [torch.empty(USERS, n) for n in (STEPS + 1, STEPS + 1, STEPS, 1)]

    whole, expected = Part(logits, target, 0, COLUMNS), empty()
    run("ensemble", whole, *expected)

    parts = parts_of(logits, target)
    statistics = [empty() for _ in parts]
    for part, tensors in zip(parts, statistics, strict=True):
        run("ensemble_statistics", part, *tensors)
    shift, norm, factors = reduce([s[0] for s in statistics], [s[1] for s in statistics])
    spread = sum(s[2] * f[:, :STEPS] for s, f in zip(statistics, factors, strict=True))
    for got, one_pass in zip((shift, norm, spread), expected, strict=False):
        torch.testing.assert_close(got, one_pass, rtol=1e-5, atol=1e-5)
    for part in parts:
        run("ensemble_gradient", part, shift, norm, spread, expected[3])
    largest = float(whole.values.abs().max())
    torch.testing.assert_close(torch.cat([p.values for p in parts], 1), whole.values, rtol=0, atol=2e-6 * largest)

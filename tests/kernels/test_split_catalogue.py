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
    """Some columns of the logits as a chunk, [columns, steps, users] and padding; targets elsewhere are -1."""

    def __init__(self, logits: Tensor, target: Tensor, first: int, end: int) -> None:
        shape = (end - first, STEPS, USERS)
        buffer = torch.full((shape[0] * STEPS * USERS + _C.LOGITS_PADDING,), float("nan"))
        self.chunk = buffer[: -_C.LOGITS_PADDING].view(shape)
        self.chunk.copy_(logits[:, first:end].view(USERS, STEPS, -1).permute(2, 1, 0))
        self.target = torch.where((target >= first) & (target < end), target - first, -1)

    def run(self, kernel: str, numbers: tuple[object, ...], *, statistics: bool, gradient: bool) -> None:
        users = (USERS, STEPS, self.target.data_ptr())
        chunk = (self.chunk.data_ptr(), self.chunk.shape[0], users, 0, False, statistics, gradient, 1)
        getattr(_C, kernel)(chunk, numbers)

    @property
    def values(self) -> Tensor:
        return self.chunk.permute(2, 1, 0).reshape(USERS * STEPS, -1)


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
    for part, tensors in zip(parts, statistics, strict=True):
        addresses = tuple(x.data_ptr() for x in (temperature, *tensors, coefficient))
        part.run("cross_entropy", addresses, statistics=True, gradient=False)
    shift, norm, _ = reduce([s[0] for s in statistics], [s[1] for s in statistics])
    # A part without the target says 0 for it.
    owned = [part.target.repeat_interleave(STEPS) >= 0 for part in parts]
    target_logit = sum(
        torch.where(own, s[2] + (s[0] - shift) * INVERSE_TEMPERATURE, 0.0)
        for own, s in zip(owned, statistics, strict=True)
    )
    for part in parts:
        addresses = tuple(x.data_ptr() for x in (temperature, shift, norm, target_logit, coefficient))
        part.run("cross_entropy", addresses, statistics=False, gradient=True)

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

    def run(part: Part, *tensors: Tensor, statistics: bool = False, gradient: bool = False) -> None:
        addresses = (x.data_ptr() for x in tensors)
        numbers = (INVERSE_TEMPERATURE, paper, *addresses, *coefficients)
        part.run("ensemble", numbers, statistics=statistics, gradient=gradient)

    def empty() -> list[Tensor]:
        return [torch.empty(USERS, n) for n in (STEPS + 1, STEPS + 1, STEPS, 1)]

    whole, expected = Part(logits, target, 0, COLUMNS), empty()
    run(whole, *expected, statistics=True, gradient=True)

    parts = parts_of(logits, target)
    statistics = [empty() for _ in parts]
    for part, tensors in zip(parts, statistics, strict=True):
        run(part, *tensors, statistics=True)
    shift, norm, factors = reduce([s[0] for s in statistics], [s[1] for s in statistics])
    spread = sum(s[2] * f[:, :STEPS] for s, f in zip(statistics, factors, strict=True))
    for got, one_pass in zip((shift, norm, spread), expected, strict=False):
        torch.testing.assert_close(got, one_pass, rtol=1e-5, atol=1e-5)
    for part in parts:
        run(part, shift, norm, spread, expected[3], gradient=True)
    largest = float(whole.values.abs().max())
    torch.testing.assert_close(torch.cat([p.values for p in parts], 1), whole.values, rtol=0, atol=2e-6 * largest)

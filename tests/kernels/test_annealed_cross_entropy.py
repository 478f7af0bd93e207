"""annealed_cross_entropy: values and gradients of every backend against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import annealed_cross_entropy, annealed_temperatures, native, use_backend

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
IGNORED = -100
# rows R, states T, width d, items N; chunks of the cpu backend have some 200 rows of logits, vectors up to 16 columns
SHAPES = [
    (1, 1, 1, 1),
    (5, 1, 8, 1),
    (1, 3, 16, 17),
    (7, 2, 5, 16),
    (200, 3, 24, 333),
    (67, 4, 64, 1031),
    (50, 5, 7, 15),
    (33, 6, 32, 2049),
]


class Problem:
    """Random float64 inputs that are exact in `dtype`; every third row is ignored, if there are three."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype, scale: float = 1.0) -> None:
        rows, self.steps, width, items = shape
        generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items)
        hidden = torch.randn(rows, self.steps, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(items, width, generator=generator, dtype=torch.float64) * scale * width**-0.5
        self.hidden, self.weight = (x.to(dtype).double() for x in (hidden, weight))
        self.target = torch.randint(0, items, (rows,), generator=generator)
        self.target[2::3] = IGNORED
        # As float32 numbers, which is what every backend takes.
        self.temperature = annealed_temperatures(0.3, 1.5, self.steps - 1)
        self.step_weight = torch.rand(self.steps, generator=generator).cpu()
        self.upstream = torch.randn(rows, self.steps, generator=generator, dtype=torch.float64)

    def leaves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.hidden.to(dtype, copy=True).requires_grad_(), self.weight.to(dtype, copy=True).requires_grad_()

    def plain(self, dtype: torch.dtype, reduction: str, rounded: bool = False) -> list[Tensor]:
        """The loss and its gradients as PyTorch computes them in `dtype`, logits materialised."""
        hidden, weight = self.leaves(dtype)
        operands = (x.to(torch.bfloat16) if rounded else x for x in (hidden, weight))
        z = (
            torch.einsum("rtd,nd->rtn", *operands)
            / self.temperature.to(hidden.device, torch.bfloat16 if rounded else dtype)[:, None]
        )
        targets = self.target[:, None].expand(-1, self.steps)
        losses = F.cross_entropy(z.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
        losses = losses.view(-1, self.steps) * self.step_weight.to(losses)
        if reduction == "none":
            loss = (losses * self.upstream.to(dtype)).sum()
        else:
            losses = loss = losses.sum() / (self.target != IGNORED).sum().clamp(min=1)
        return [losses.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    def kernel(self, dtype: torch.dtype, reduction: str, precision: str = "fp32") -> list[Tensor]:
        hidden, weight = self.leaves(dtype)
        losses = annealed_cross_entropy(
            hidden,
            weight,
            self.target,
            temperature=self.temperature,
            step_weight=self.step_weight,
            reduction=reduction,
            precision=precision,
        )
        loss = (losses * self.upstream.to(losses.dtype)).sum() if reduction == "none" else losses
        return [losses.detach(), *torch.autograd.grad(loss, (hidden, weight))]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_are_as_accurate_as_plain_pytorch(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int], reduction: str, assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, dtype)
    with use_backend(backend):
        got = problem.kernel(dtype, reduction)
    assert got[0].dtype == torch.float32
    assert [x.dtype for x in got[1:]] == [dtype, dtype]
    for result, eager, exact in zip(
        got, problem.plain(dtype, reduction), problem.plain(torch.float64, reduction), strict=True
    ):
        assert_as_accurate(result, eager, exact)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_precision_is_as_accurate_as_bfloat16_in_plain_pytorch(
    backend: str, shape: tuple[int, int, int, int], assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, torch.float32)
    with use_backend(backend):
        got = problem.kernel(torch.float32, "mean", "bf16")
    for result, eager, exact in zip(
        got, problem.plain(torch.float32, "mean", rounded=True), problem.plain(torch.float64, "mean"), strict=True
    ):
        # Operands are rounded, results are not: the floor is that of bfloat16.
        assert_as_accurate(result.to(torch.bfloat16), eager, exact)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_precision_rounds_the_operands_and_nothing_else(backend: str) -> None:
    problem = Problem((40, 2, 16, 100), torch.bfloat16)
    with use_backend(backend):
        exact_operands, rounded_operands = (
            annealed_cross_entropy(
                *problem.leaves(torch.float32), problem.target, temperature=0.07, reduction="none", precision=precision
            )
            for precision in ("fp32", "bf16")
        )
    # Tensor cores and tiles add the same exact products in another order.
    tolerance = 1e-6 if exact_operands.is_cuda or native.MULTIPLIES_BF16 else 0.0
    torch.testing.assert_close(exact_operands, rounded_operands, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_sharp_temperature_and_logits_of_hundreds(backend: str, reduction: str, assert_as_accurate: Callable) -> None:
    problem = Problem((64, 3, 32, 500), torch.float32, scale=4.0)
    problem.temperature = annealed_temperatures(0.07, 1.0, 2)
    z = problem.hidden @ problem.weight.T / 0.07
    assert z.abs().max() > 200
    with use_backend(backend):
        got = problem.kernel(torch.float32, reduction)
    for result, eager, exact in zip(
        got, problem.plain(torch.float32, reduction), problem.plain(torch.float64, reduction), strict=True
    ):
        assert_as_accurate(result, eager, exact)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradcheck_of_the_reference(reduction: str) -> None:
    problem = Problem((5, 3, 4, 7), torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return annealed_cross_entropy(
            hidden, weight, problem.target, temperature=[0.9, 0.6, 0.4], step_weight=[0.3, 0.5, 1.0],
            reduction=reduction,
        )  # fmt: skip

    with use_backend("reference"):
        assert torch.autograd.gradcheck(loss, problem.leaves(torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_leave_the_loss_whatever_they_hold(backend: str) -> None:
    problem = Problem((9, 2, 8, 20), torch.float32)
    counted = problem.target != IGNORED
    with use_backend(backend):
        hidden, weight = problem.leaves(torch.float32)
        alone = annealed_cross_entropy(hidden[counted], weight, problem.target[counted], temperature=0.5)
        expected = torch.autograd.grad(alone, (hidden, weight))
        spoiled = hidden.detach().clone()
        spoiled[~counted] = float("nan")
        spoiled.requires_grad_()
        loss = annealed_cross_entropy(spoiled, weight, problem.target, temperature=0.5)
        got = torch.autograd.grad(loss, (spoiled, weight))
        terms = annealed_cross_entropy(spoiled, weight, problem.target, temperature=0.5, reduction="none")
    torch.testing.assert_close(loss, alone)
    assert not got[0][~counted].any() and not terms[~counted].any()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_rows_ignored_gives_zero_and_zero_gradients(backend: str, reduction: str) -> None:
    hidden, weight = Problem((4, 2, 8, 20), torch.float32).leaves(torch.float32)
    with use_backend(backend):
        loss = annealed_cross_entropy(
            hidden, weight, torch.full((4,), 7), temperature=0.5, ignore_index=7, reduction=reduction
        )
    assert not loss.any()
    for gradient in torch.autograd.grad(loss.sum(), (hidden, weight)):
        assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows(backend: str) -> None:
    weight = torch.randn(5, 8, requires_grad=True)
    hidden = torch.randn(0, 2, 8, requires_grad=True)
    target = torch.empty(0, dtype=torch.int64)
    with use_backend(backend):
        loss = annealed_cross_entropy(hidden, weight, target, temperature=0.5)
        assert annealed_cross_entropy(hidden, weight, target, temperature=0.5, reduction="none").shape == (0, 2)
    assert loss == 0
    assert [g.abs().sum() for g in torch.autograd.grad(loss, (hidden, weight))] == [0, 0]


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_temperature_and_weight_stand_for_all_steps(backend: str) -> None:
    problem = Problem((6, 3, 8, 20), torch.float32)
    hidden, weight = problem.leaves(torch.float32)
    with use_backend(backend):
        one = annealed_cross_entropy(hidden, weight, problem.target, temperature=0.5, step_weight=2.0)
        each = annealed_cross_entropy(
            hidden, weight, problem.target, temperature=torch.full((3,), 0.5, device="cpu"), step_weight=[2, 2, 2]
        )
        default = annealed_cross_entropy(hidden, weight, problem.target, temperature=0.5)
    assert torch.equal(one, each)
    torch.testing.assert_close(one, 2 * default)


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs_and_int32_targets(backend: str) -> None:
    problem = Problem((12, 3, 8, 40), torch.float32)
    hidden, weight = (x.detach() for x in problem.leaves(torch.float32))
    strided = (
        hidden.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(),
        weight.t().contiguous().t().requires_grad_(),
        torch.stack([problem.target, problem.target], dim=1)[:, 0].to(torch.int32),
    )
    with use_backend(backend):
        for reduction in ("mean", "none"):
            dense = (hidden.requires_grad_(), weight.requires_grad_(), problem.target)
            expected, got = (
                (
                    loss := annealed_cross_entropy(*x, temperature=0.5, reduction=reduction),
                    *torch.autograd.grad(loss.sum(), x[:2]),
                )
                for x in (dense, strided)
            )
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_and_nan_logits_give_what_they_give_in_pytorch(backend: str) -> None:
    # With h = 1 and 2 the first 700 items score -inf, with -1 they score +inf.
    weight = torch.cat([torch.full((700, 1), float("-inf")), torch.linspace(-1, 1, 300)[:, None]])
    hidden = torch.tensor([1.0, 2.0, float("nan"), -1.0]).view(4, 1, 1)
    spoiled = weight.clone()
    spoiled[950] = float("nan")
    nowhere = torch.full((5, 1), float("-inf"))
    for table, target in (
        (weight, torch.tensor([900, 999, 700, 800])),
        (weight, torch.tensor([0, 699, 700, 5])),
        (spoiled, torch.tensor([900, 999, 700, 800])),
        (nowhere, torch.tensor([0, 1, 2, 3])),
    ):
        expected = F.cross_entropy(hidden[:, 0] @ table.T, target, reduction="none")
        with use_backend(backend):
            got = annealed_cross_entropy(hidden, table, target, temperature=1.0, reduction="none")
        torch.testing.assert_close(got[:, 0], expected, equal_nan=True)


def test_annealed_temperatures_sharpen_step_by_step() -> None:
    expected = torch.tensor([0.07 * 25, 0.07 * 5, 0.07], dtype=torch.float64)
    torch.testing.assert_close(annealed_temperatures(0.07, 5, 2), expected)
    assert annealed_temperatures(0.07, 5, 0).tolist() == pytest.approx([0.07])
    assert annealed_temperatures(0.5, 1, 3).tolist() == [0.5] * 4

"""ensemble_reasoning_loss: both terms and the gradients of every backend against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import EnsembleLoss, ensemble_reasoning_loss, use_backend

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
FORMS = ("official", "paper")
IGNORED = -100
KL_WEIGHT = 0.37
# rows R, states T, width d, items N
SHAPES = [
    (1, 1, 1, 1),
    (5, 1, 8, 33),
    (1, 2, 16, 1),
    (7, 2, 5, 16),
    (200, 3, 24, 333),
    (67, 4, 64, 1031),
    (50, 5, 7, 15),
    (33, 6, 32, 2049),
    (9, 8, 16, 50),
]


def divergence(log_p: Tensor, form: str) -> Tensor:
    """Per row, by definition, from log-probabilities [R, T, N]: exact also where probabilities underflow."""
    steps = log_p.shape[1]
    if form == "official":
        pairs = [(j, i) for i in range(steps) for j in range(steps) if i != j]
        fixed = log_p.detach()
    else:
        pairs = [(i, j) for i in range(steps) for j in range(i + 1, steps)]
        fixed = log_p
    total = log_p.new_zeros(log_p.shape[0])
    for p, q in pairs:
        total = total + (log_p[:, p].exp() * (log_p[:, p] - fixed[:, q])).sum(-1)
    return total / len(pairs) if form == "official" and pairs else total


class Problem:
    """Random float64 inputs that are exact in `dtype`; every third row is ignored, if there are three."""

    def __init__(
        self, shape: tuple[int, int, int, int], dtype: torch.dtype, scale: float = 1.0, temperature: float = 0.3
    ) -> None:
        rows, steps, width, items = shape
        generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items)
        hidden = torch.randn(rows, steps, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(items, width, generator=generator, dtype=torch.float64) * scale * width**-0.5
        self.hidden, self.weight = (x.to(dtype).double() for x in (hidden, weight))
        self.target = torch.randint(0, items, (rows,), generator=generator)
        self.target[2::3] = IGNORED
        self.temperature = temperature

    def leaves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.hidden.to(dtype, copy=True).requires_grad_(), self.weight.to(dtype, copy=True).requires_grad_()

    def plain(self, dtype: torch.dtype, form: str, rounded: bool = False) -> list[Tensor]:
        """Loss, cross-entropy, divergence and gradients as PyTorch computes them in `dtype`, logits materialised."""
        leaves = self.leaves(dtype)
        hidden, weight = (x.to(torch.bfloat16) if rounded else x for x in leaves)
        counted = self.target != IGNORED
        z = torch.einsum("rtd,nd->rtn", hidden[counted], weight) / self.temperature
        cross_entropy = F.cross_entropy(z.mean(1), self.target[counted])
        kl = divergence(z.log_softmax(-1), form).mean()
        loss = cross_entropy - KL_WEIGHT * kl
        return [x.detach() for x in (loss, cross_entropy, kl)] + list(torch.autograd.grad(loss, leaves))

    def kernel(self, dtype: torch.dtype, form: str, precision: str = "fp32") -> list[Tensor]:
        leaves = self.leaves(dtype)
        result = ensemble_reasoning_loss(
            *leaves,
            self.target,
            temperature=self.temperature,
            kl_weight=KL_WEIGHT,
            kl_form=form,
            precision=precision,
        )
        return [*(x.detach() for x in result), *torch.autograd.grad(result.loss, leaves)]

    def largest_term(self, form: str) -> float:
        """What the divergence is summed up from: the largest difference of two states' logits, for every pair."""
        z = self.hidden @ self.weight.T / self.temperature
        steps = z.shape[1]
        return float((z.amax(1) - z.amin(1)).max()) * (steps * (steps - 1) / 2 if form == "paper" else 1)

    def largest_gradient_terms(self, form: str) -> tuple[float, float]:
        """What the gradients of hidden and weight are summed up from: the largest sum of their terms' magnitudes.

        The gradient of a state's logits is that of the mean's softmax and, for each other state, the probability times
        the difference of two logits.
        """
        hidden = self.hidden[self.target != IGNORED]
        z = hidden @ self.weight.T / self.temperature
        rows, steps, _ = z.shape
        others = steps - 1 if form == "paper" else 1 / steps
        differences = KL_WEIGHT * others * (z.amax(1) - z.amin(1)).max() * z.softmax(-1)
        terms = (z.mean(1, keepdim=True).softmax(-1) / steps + differences) / (rows * self.temperature)
        of_hidden, of_weight = terms @ self.weight.abs(), torch.einsum("rtn,rtd->nd", terms, hidden.abs())
        return float(of_hidden.max()), float(of_weight.max())


def assert_all_as_accurate(
    problem: Problem, form: str, got: list[Tensor], eager: list[Tensor], check: Callable[..., None]
) -> None:
    exact = problem.plain(torch.float64, form)
    term = problem.largest_term(form)
    of_hidden, of_weight = problem.largest_gradient_terms(form)
    of_hidden, of_weight = max(of_hidden, float(exact[3].abs().max())), max(of_weight, float(exact[4].abs().max()))
    magnitudes = [float(exact[1]) + KL_WEIGHT * term, None, term, of_hidden, of_weight]
    for result, plain, true, magnitude in zip(got, eager, exact, magnitudes, strict=True):
        check(result, plain, true, magnitude)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_are_as_accurate_as_plain_pytorch(
    backend: str, dtype: torch.dtype, shape: tuple[int, int, int, int], form: str, assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, dtype)
    with use_backend(backend):
        got = problem.kernel(dtype, form)
    assert [x.dtype for x in got] == [torch.float32] * 3 + [dtype] * 2
    assert_all_as_accurate(problem, form, got, problem.plain(dtype, form), assert_as_accurate)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_precision_is_as_accurate_as_bfloat16_in_plain_pytorch(
    backend: str, shape: tuple[int, int, int, int], form: str, assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, torch.float32)
    with use_backend(backend):
        got = [x.to(torch.bfloat16) for x in problem.kernel(torch.float32, form, "bf16")]
    assert_all_as_accurate(problem, form, got, problem.plain(torch.float32, form, rounded=True), assert_as_accurate)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_is_finite_and_right_where_probabilities_underflow(
    backend: str, form: str, assert_as_accurate: Callable
) -> None:
    problem = Problem((64, 3, 32, 500), torch.float32, scale=4.0, temperature=0.07)
    z = problem.hidden @ problem.weight.T / problem.temperature
    assert z.abs().max() > 200
    assert z.float().softmax(-1).min() == 0
    with use_backend(backend):
        got = problem.kernel(torch.float32, form)
    assert_all_as_accurate(problem, form, got, problem.plain(torch.float32, form), assert_as_accurate)


def test_gradcheck_of_the_reference_in_the_papers_form() -> None:
    problem = Problem((5, 3, 4, 7), torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return ensemble_reasoning_loss(
            hidden, weight, problem.target, temperature=0.6, kl_weight=KL_WEIGHT, kl_form="paper"
        ).loss

    with use_backend("reference"):
        assert torch.autograd.gradcheck(loss, problem.leaves(torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", FORMS)
def test_reference_in_float64_is_the_definition(form: str, shape: tuple[int, int, int, int]) -> None:
    # Numerical differences cannot see what the official form keeps fixed; autograd of the definition can.
    problem = Problem(shape, torch.float64)
    with use_backend("reference"):
        got = problem.kernel(torch.float64, form)
    for a, b in zip(got, problem.plain(torch.float64, form), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_states_that_agree_have_no_divergence_at_all(backend: str) -> None:
    hidden = torch.randn(6, 1, 8).expand(6, 4, 8)
    weight = torch.randn(50, 8)
    target = torch.randint(0, 50, (6,))
    with use_backend(backend):
        for form in FORMS:
            loss = ensemble_reasoning_loss(hidden, weight, target, temperature=0.07, kl_weight=1.0, kl_form=form)
            assert loss.kl.abs() < 1e-6


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_state_is_plain_cross_entropy(backend: str, form: str) -> None:
    problem = Problem((8, 1, 8, 30), torch.float32)
    hidden, weight = problem.leaves(torch.float32)
    with use_backend(backend):
        result = ensemble_reasoning_loss(hidden, weight, problem.target, temperature=0.5, kl_weight=10.0, kl_form=form)
    expected = F.cross_entropy(hidden[:, 0] @ weight.T / 0.5, problem.target)
    assert result.kl == 0
    torch.testing.assert_close(result.loss, expected)
    for a, b in zip(*(torch.autograd.grad(x, (hidden, weight)) for x in (result.loss, expected)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_result_is_named_and_only_the_loss_carries_a_gradient(backend: str) -> None:
    problem = Problem((8, 3, 8, 30), torch.float32)
    with use_backend(backend):
        result = ensemble_reasoning_loss(
            *problem.leaves(torch.float32), problem.target, temperature=0.5, kl_weight=0.25
        )
    assert isinstance(result, EnsembleLoss)
    torch.testing.assert_close(result.loss.detach(), result.cross_entropy - 0.25 * result.kl)
    assert result.loss.requires_grad
    assert not result.cross_entropy.requires_grad and not result.kl.requires_grad


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_leave_both_terms_whatever_they_hold(backend: str, form: str) -> None:
    problem = Problem((9, 3, 8, 20), torch.float32)
    counted = problem.target != IGNORED
    arguments = {"temperature": 0.5, "kl_weight": KL_WEIGHT, "kl_form": form}
    with use_backend(backend):
        hidden, weight = problem.leaves(torch.float32)
        alone = ensemble_reasoning_loss(hidden[counted], weight, problem.target[counted], **arguments)
        expected = torch.autograd.grad(alone.loss, (hidden, weight))
        spoiled = hidden.detach().clone()
        spoiled[~counted] = float("nan")
        spoiled.requires_grad_()
        result = ensemble_reasoning_loss(spoiled, weight, problem.target, **arguments)
        got = torch.autograd.grad(result.loss, (spoiled, weight))
    assert not got[0][~counted].any()
    for a, b in zip((*result, *got), (*alone, *expected), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("rows", [0, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_row_that_counts_gives_zero_and_zero_gradients(backend: str, form: str, rows: int) -> None:
    hidden, weight = torch.randn(rows, 3, 8, requires_grad=True), torch.randn(20, 8, requires_grad=True)
    target = torch.full((rows,), IGNORED)
    with use_backend(backend):
        result = ensemble_reasoning_loss(hidden, weight, target, temperature=0.5, kl_weight=0.1, kl_form=form)
    assert [x.item() for x in result] == [0.0, 0.0, 0.0]
    for gradient in torch.autograd.grad(result.loss, (hidden, weight)):
        assert not gradient.any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs_and_int32_targets(backend: str) -> None:
    problem = Problem((12, 3, 8, 40), torch.float32)
    hidden, weight = problem.leaves(torch.float32)
    strided = (
        hidden.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_(),
        weight.detach().t().contiguous().t().requires_grad_(),
    )
    results = []
    with use_backend(backend):
        for leaves, target in (((hidden, weight), problem.target), (strided, problem.target.to(torch.int32))):
            result = ensemble_reasoning_loss(*leaves, target, temperature=0.5, kl_weight=KL_WEIGHT)
            results.append([*result, *torch.autograd.grad(result.loss, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)

"""annealed_cross_entropy with soft targets: values and gradients of every backend against a dense distribution."""

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
every_backend = pytest.mark.parametrize("backend", BACKENDS)
reductions = pytest.mark.parametrize("reduction", ["mean", "none"])
IGNORED = -100
Shape = tuple[int, int, int, int, int]  # rows R, states T, width d, items N, places M
SHAPES = [
    (1, 1, 1, 1, 1),
    (5, 1, 8, 1, 5),
    (1, 3, 16, 17, 0),
    (7, 2, 5, 3, 5),
    (70, 3, 24, 333, 5),
    (20, 4, 64, 1031, 11),
    (6, 2, 7, 15, 15),
]


class Problem:
    """Random float64 inputs that are exact in `dtype`; every third row is ignored, every fourth item absent."""

    def __init__(self, shape: Shape, dtype: torch.dtype, scale: float = 1.0) -> None:
        rows, self.steps, width, items, places = shape
        generator = torch.Generator(torch.get_default_device()).manual_seed(rows + items + places)
        hidden = torch.randn(rows, self.steps, width, generator=generator, dtype=torch.float64)
        weight = torch.randn(items, width, generator=generator, dtype=torch.float64) * scale * width**-0.5
        self.hidden, self.weight = (x.to(dtype).double() for x in (hidden, weight))
        self.target = torch.randint(0, items, (rows,), generator=generator)
        self.target[2::3] = IGNORED
        self.items = torch.randint(0, items, (rows, places), generator=generator)
        self.items[1::2, 1::2] = self.items[1::2, : places // 2 * 2 : 2]  # repeated
        self.mass = torch.rand(rows, self.steps, places, generator=generator)
        self.mass[::2, :, 3::4] = float("nan")  # whatever it is
        self.items[::2, 3::4] = -1
        self.temperature = annealed_temperatures(0.3, 1.5, self.steps - 1)
        self.step_weight = torch.rand(self.steps, generator=generator).cpu()
        self.upstream = torch.randn(rows, self.steps, generator=generator, dtype=torch.float64)

    def leaves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.hidden.to(dtype, copy=True).requires_grad_(), self.weight.to(dtype, copy=True).requires_grad_()

    def dense(self, dtype: torch.dtype) -> Tensor:
        """[R, T, N]"""
        there = (self.items >= 0)[:, None]
        mass = torch.where(there, self.mass, 0.0).double()
        q = torch.zeros(*self.hidden.shape[:2], self.weight.shape[0], dtype=torch.float64, device=mass.device)
        return q.scatter_add(2, self.items.clamp(min=0)[:, None].expand(mass.shape), mass).to(dtype)

    def plain(
        self, dtype: torch.dtype, reduction: str, rounded: bool = False, softmax_alone: bool = False
    ) -> list[Tensor]:
        """The loss and its gradients as PyTorch computes them in `dtype`, logits and distribution materialised; or what
        they are without the targets' logits."""
        hidden, weight = self.leaves(dtype)
        operands = (x.to(torch.bfloat16) if rounded else x for x in (hidden, weight))
        z = torch.einsum("rtd,nd->rtn", *operands)
        z = z / self.temperature.to(hidden.device, z.dtype)[:, None]
        q = self.dense(z.dtype)
        if softmax_alone:
            losses = q.sum(-1) * z.logsumexp(-1)
        else:
            losses = F.cross_entropy(z.flatten(0, 1), q.flatten(0, 1), reduction="none")
        counted = self.target != IGNORED
        losses = losses.view(-1, self.steps) * self.step_weight.to(losses) * counted[:, None]
        if reduction == "none":
            loss = (losses * self.upstream.to(losses)).sum()
        else:
            losses = loss = losses.sum() / counted.sum().clamp(min=1)
        return [losses.detach(), *torch.autograd.grad(loss, (hidden, weight))]

    def magnitudes(self, backend: str, reduction: str, precision: str) -> list[float | None]:
        """Of what is rounded in loss and gradients, where the targets' terms come from another product than others."""
        if backend == "triton" or (backend == "cpu" and precision == "bf16" and native.MULTIPLIES_BF16):
            return [float(x.abs().max()) for x in self.plain(torch.float64, reduction, softmax_alone=True)]
        return [None] * 3

    def kernel(self, dtype: torch.dtype, reduction: str, precision: str = "fp32") -> list[Tensor]:
        hidden, weight = self.leaves(dtype)
        losses = annealed_cross_entropy(
            hidden, weight, self.target, temperature=self.temperature, step_weight=self.step_weight,
            soft_target=(self.items, self.mass), reduction=reduction, precision=precision,
        )  # fmt: skip
        loss = (losses * self.upstream.to(losses.dtype)).sum() if reduction == "none" else losses
        return [losses.detach(), *torch.autograd.grad(loss, (hidden, weight))]


@reductions
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_backend
def test_values_and_gradients_are_as_accurate_as_plain_pytorch(
    backend: str,
    dtype: torch.dtype,
    shape: Shape,
    reduction: str,
    assert_as_accurate: Callable,
) -> None:
    problem = Problem(shape, dtype)
    with use_backend(backend):
        got = problem.kernel(dtype, reduction)
    assert got[0].dtype == torch.float32
    assert [x.dtype for x in got[1:]] == [dtype, dtype]
    eager, exact = problem.plain(dtype, reduction), problem.plain(torch.float64, reduction)
    for x in zip(got, eager, exact, problem.magnitudes(backend, reduction, "fp32"), strict=True):
        assert_as_accurate(*x)


@reductions
@pytest.mark.parametrize("shape", SHAPES)
@every_backend
def test_bf16_precision_is_as_accurate_as_bfloat16_in_plain_pytorch(
    backend: str, shape: Shape, reduction: str, assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, torch.float32)
    with use_backend(backend):
        got = problem.kernel(torch.float32, reduction, "bf16")
    eager, exact = problem.plain(torch.float32, reduction, rounded=True), problem.plain(torch.float64, reduction)
    for result, *x in zip(got, eager, exact, problem.magnitudes(backend, reduction, "bf16"), strict=True):
        # Operands are rounded, results are not: the floor is that of bfloat16.
        assert_as_accurate(result.to(torch.bfloat16), *x)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_bf16x3_is_near_float32(backend: str) -> None:
    if backend not in BACKENDS:
        pytest.skip("no native module in this install")
    problem = Problem((150, 3, 64, 700, 11), torch.float32)
    with use_backend(backend):
        got = problem.kernel(torch.float32, "none", "bf16x3")
    for result, exact in zip(got, problem.plain(torch.float64, "none"), strict=True):
        assert (result - exact).abs().max() <= 1e-4 * exact.abs().max()


@reductions
@every_backend
def test_sharp_temperature_and_logits_of_hundreds(backend: str, reduction: str, assert_as_accurate: Callable) -> None:
    problem = Problem((64, 3, 32, 500, 5), torch.float32, scale=4.0)
    problem.temperature = annealed_temperatures(0.07, 1.0, 2)
    z = problem.hidden @ problem.weight.T / 0.07
    assert z.abs().max() > 200
    problem.items[:20, 0] = z[:20, 0].argmax(-1)  # likely ones too
    with use_backend(backend):
        got = problem.kernel(torch.float32, reduction)
    for result, eager, exact in zip(
        got, problem.plain(torch.float32, reduction), problem.plain(torch.float64, reduction), strict=True
    ):
        assert_as_accurate(result, eager, exact)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@reductions
@every_backend
def test_the_hard_target_is_one_item_of_mass_one(backend: str, reduction: str, precision: str) -> None:
    problem = Problem((40, 3, 16, 90, 5), torch.bfloat16)
    items = problem.target.clamp(min=0)[:, None].int()
    mass = torch.ones(items.shape, dtype=torch.bfloat16)
    results = []
    with use_backend(backend):
        for soft in (None, (items, mass)):
            leaves = problem.leaves(torch.float32)
            loss = annealed_cross_entropy(
                *leaves, problem.target, temperature=problem.temperature, soft_target=soft, reduction=reduction,
                precision=precision,
            )  # fmt: skip
            weighted = loss * problem.upstream.float() if reduction == "none" else loss
            results.append([loss.detach(), *torch.autograd.grad(weighted.sum(), leaves)])
    for i, (hard, soft) in enumerate(zip(*results, strict=True)):
        # The gradient of logits is a number of bfloat16 or, at targets, more exact.
        part = 2**-8 if precision == "bf16" and i > 0 else 1e-6
        torch.testing.assert_close(soft, hard, rtol=0, atol=part * float(hard.abs().max()))


@every_backend
def test_label_smoothing_over_all_items(backend: str) -> None:
    """(1 - eps) of the mass on the target and eps / N on every item: F.cross_entropy's label_smoothing."""
    rows, items, eps = 9, 33, 0.2
    problem = Problem((rows, 1, 12, items, 1), torch.float32)
    hidden, weight = problem.leaves(torch.float64)
    target = problem.target.clamp(min=0)
    expected = F.cross_entropy(hidden[:, 0] @ weight.T / 0.5, target, label_smoothing=eps)
    every = torch.arange(items).expand(rows, items)
    soft = torch.cat([every, target[:, None]], 1), torch.full((rows, items + 1), eps / items)
    soft[1][:, -1] = 1 - eps
    got = problem.leaves(torch.float32)
    with use_backend(backend):
        loss = annealed_cross_entropy(*got, None, temperature=0.5, soft_target=soft)
    results = [loss.detach(), *torch.autograd.grad(loss, got)]
    exact = [expected.detach(), *torch.autograd.grad(expected, (hidden, weight))]
    for a, b in zip(results, exact, strict=True):
        assert (a - b).abs().max() <= 1e-6 * max(1.0, float(b.abs().max()))


def test_by_hand() -> None:
    """Two items, logits 0 and log 3: probabilities 1/4 and 3/4."""
    hidden, weight = torch.ones(1, 1, 1), torch.tensor([[1.0], [3.0]]).log().requires_grad_()
    soft = torch.tensor([[0, 1, -1, 1]]), torch.tensor([[0.5, 1.0, 7.0, 0.25]])
    loss = annealed_cross_entropy(hidden, weight, None, temperature=1.0, soft_target=soft)
    torch.testing.assert_close(loss, torch.tensor(4.0).log() * 0.5 + torch.tensor(4 / 3).log() * 1.25)
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(gradient, torch.tensor([[1.75 / 4 - 0.5], [1.75 * 3 / 4 - 1.25]]))


@reductions
def test_gradcheck_of_the_reference(reduction: str) -> None:
    problem = Problem((5, 3, 4, 7, 4), torch.float64)

    def loss(hidden: Tensor, weight: Tensor) -> Tensor:
        return annealed_cross_entropy(
            hidden, weight, problem.target, temperature=[0.9, 0.6, 0.4], step_weight=[0.3, 0.5, 1.0],
            soft_target=(problem.items, problem.mass.double()), reduction=reduction,
        )  # fmt: skip

    with use_backend("reference"):
        assert torch.autograd.gradcheck(loss, problem.leaves(torch.float64))


@reductions
@every_backend
def test_one_mass_for_all_states_any_dtype_and_strides(backend: str, reduction: str) -> None:
    problem = Problem((12, 3, 8, 40, 4), torch.float32)
    each = problem.mass[:, :1].half().expand(-1, 3, -1)
    strided = problem.items.int().t().contiguous().t(), each[:, 0].t().contiguous().t()
    results = []
    with use_backend(backend):
        for soft in ((problem.items, each.float()), strided):
            leaves = problem.leaves(torch.float32)
            loss = annealed_cross_entropy(
                *leaves, problem.target, temperature=0.5, soft_target=soft, reduction=reduction
            )
            results.append([loss.detach(), *torch.autograd.grad(loss.sum(), leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@every_backend
def test_rows_without_mass_and_ignored_rows(backend: str, precision: str) -> None:
    problem = Problem((9, 2, 8, 20, 3), torch.float32)
    problem.mass[0], problem.items[1] = 0.0, -1
    ignored = problem.target == IGNORED
    hidden, weight = problem.leaves(torch.float32)
    spoiled = hidden.detach().masked_fill(ignored[:, None, None], float("nan")).requires_grad_()
    with use_backend(backend):
        losses, expected = (
            annealed_cross_entropy(
                x, weight, problem.target, temperature=0.5, soft_target=(problem.items, problem.mass),
                reduction=reduction, precision=precision,
            )
            for x, reduction in ((spoiled, "none"), (hidden, "mean"))
        )  # fmt: skip
        mean = losses.sum() / (~ignored).sum()
        got = torch.autograd.grad(mean, (spoiled, weight))
        right = torch.autograd.grad(expected, (hidden, weight))
    assert losses[3].all() and not losses[:3].any()
    torch.testing.assert_close(mean, expected)
    for a, b in zip(got, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=(1e-6 if precision == "fp32" else 2**-8) * float(b.abs().max()))
    assert not got[0][:3].any()


@reductions
@every_backend
def test_all_rows_ignored_and_no_places_give_zero_and_zero_gradients(backend: str, reduction: str) -> None:
    problem = Problem((4, 2, 8, 20, 3), torch.float32)
    every = torch.full((4,), 7)
    for target, places in ((every, 3), (None, 0), (every, 0)):
        hidden, weight = problem.leaves(torch.float32)
        with use_backend(backend):
            loss = annealed_cross_entropy(
                hidden, weight, target, temperature=0.5, ignore_index=7, reduction=reduction,
                soft_target=(problem.items[:, :places], problem.mass[..., :places]),
            )  # fmt: skip
        assert not loss.any()
        for gradient in torch.autograd.grad(loss.sum(), (hidden, weight)):
            assert not gradient.any()


@every_backend
def test_no_rows(backend: str) -> None:
    weight, hidden = torch.randn(5, 8, requires_grad=True), torch.randn(0, 2, 8, requires_grad=True)
    soft = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3)
    with use_backend(backend):
        loss = annealed_cross_entropy(hidden, weight, None, temperature=0.5, soft_target=soft)
    assert loss == 0
    assert [g.abs().sum() for g in torch.autograd.grad(loss, (hidden, weight))] == [0, 0]


@every_backend
def test_without_a_target_no_row_is_ignored(backend: str) -> None:
    problem = Problem((6, 2, 8, 20, 3), torch.float32)
    soft = problem.items, problem.mass
    with use_backend(backend):
        hidden, weight = problem.leaves(torch.float32)
        for ignore_index in (0, 1, -100):  # there is no target that it could be
            loss = annealed_cross_entropy(
                hidden, weight, None, temperature=0.5, soft_target=soft, ignore_index=ignore_index
            )
            every = annealed_cross_entropy(hidden, weight, torch.ones(6).long(), temperature=0.5, soft_target=soft)
            assert torch.equal(loss, every)


@pytest.mark.skipif(native.C is None, reason="no native module in this install")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_many_chunks_are_the_same_as_one(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rearec_kernels.cpu import chunks
    from rearec_kernels.ops import soft_targets

    problem = Problem((50, 2, 16, 60, 4), torch.float32)
    with use_backend("cpu"):
        expected = problem.kernel(torch.float32, "none", precision)
        monkeypatch.setattr(chunks, "WHOLE_MATRIX", 0)
        monkeypatch.setattr(soft_targets, "_CHUNK_NUMBERS", 200)
        got = problem.kernel(torch.float32, "none", precision)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6 * float(b.abs().max()))

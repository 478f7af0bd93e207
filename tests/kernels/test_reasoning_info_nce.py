"""reasoning_info_nce: values and gradients of every backend against float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from backends import catalog_backends
from torch import Tensor

from rearec_kernels import reasoning_info_nce, use_backend

BACKENDS = catalog_backends()
pytestmark = pytest.mark.usefixtures("tensors_on_device")
# rows R, steps T, width d; the cpu backend takes some 200 rows at a time
SHAPES = [(1, 1, 1), (2, 3, 8), (17, 1, 5), (64, 2, 24), (211, 2, 16), (450, 1, 32), (33, 6, 7)]


class Problem:
    """Random float64 inputs that are exact in `dtype`, clean states near the noised ones."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        dtype: torch.dtype,
        grouped: bool = False,
        scale: float = 1.0,
        anchors: slice | None = None,
    ) -> None:
        """anchors: which of the rows are; all rows are keys."""
        rows, steps, width = shape
        generator = torch.Generator(torch.get_default_device()).manual_seed(rows)
        noised = torch.randn(shape, generator=generator, dtype=torch.float64) * scale * width**-0.5
        clean = noised + 0.5 * scale * width**-0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.noised, self.clean = (x.to(dtype).double() for x in (noised, clean))
        self.group = torch.randint(0, rows // 2 + 1, (rows,), generator=generator) * 10**12 if grouped else None
        self.upstream = torch.randn(rows, steps, generator=generator, dtype=torch.float64)
        self.temperature = 0.25
        self.anchors = anchors
        if anchors is not None:
            self.noised, self.upstream = self.noised[anchors], self.upstream[anchors]

    def leaves(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return self.noised.to(dtype, copy=True).requires_grad_(), self.clean.to(dtype, copy=True).requires_grad_()

    def plain(self, dtype: torch.dtype, reduction: str, rounded: bool = False) -> list[Tensor]:
        leaves = self.leaves(dtype)
        noised, clean = (x.to(torch.bfloat16) if rounded else x for x in leaves)
        s = torch.einsum("rtd,jtd->rtj", noised, clean) / self.temperature
        if self.group is not None:
            same = (self.group[:, None] == self.group) & ~torch.eye(len(self.group), dtype=torch.bool)
            s = s.masked_fill(same[self.anchors or slice(None), None], float("-inf"))
        losses = s.logsumexp(-1) - s.diagonal(self.first_key or 0, dim1=0, dim2=2).T
        loss = losses.mean() if reduction == "mean" else (losses * self.upstream.to(dtype)).sum()
        return [(losses if reduction == "none" else loss).detach(), *torch.autograd.grad(loss, leaves)]

    def kernel(self, dtype: torch.dtype, reduction: str, precision: str = "fp32") -> list[Tensor]:
        leaves = self.leaves(dtype)
        losses = reasoning_info_nce(
            *leaves, temperature=self.temperature, row_group=self.group, first_key=self.first_key, reduction=reduction,
            precision=precision,
        )  # fmt: skip
        loss = losses if reduction == "mean" else (losses * self.upstream.to(losses.dtype)).sum()
        return [losses.detach(), *torch.autograd.grad(loss, leaves)]

    @property
    def first_key(self) -> int | None:
        return None if self.anchors is None else self.anchors.start

    def largest_similarity(self) -> float:
        """The loss of a row is a difference of two numbers of up to this size."""
        return float((self.noised[:, None] * self.clean).sum(-1).abs().max() / self.temperature)


def compare(problem: Problem, backend: str, reduction: str, assert_as_accurate: Callable) -> None:
    """A backend's values and gradients in float32 with those of plain PyTorch, both beside float64."""
    with use_backend(backend):
        got = problem.kernel(torch.float32, reduction)
    exact = problem.plain(torch.float64, reduction)
    magnitudes = (problem.largest_similarity(), None, None)
    for result, eager, true, magnitude in zip(
        got, problem.plain(torch.float32, reduction), exact, magnitudes, strict=True
    ):
        assert_as_accurate(result, eager, true, magnitude)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients_are_as_accurate_as_plain_pytorch(
    backend: str,
    dtype: torch.dtype,
    shape: tuple[int, int, int],
    grouped: bool,
    reduction: str,
    assert_as_accurate: Callable,
) -> None:
    problem = Problem(shape, dtype, grouped)
    with use_backend(backend):
        got = problem.kernel(dtype, reduction)
    assert [x.dtype for x in got] == [torch.float32, dtype, dtype]
    exact = problem.plain(torch.float64, reduction)
    magnitudes = (problem.largest_similarity(), None, None)
    for result, eager, true, magnitude in zip(got, problem.plain(dtype, reduction), exact, magnitudes, strict=True):
        assert_as_accurate(result, eager, true, magnitude)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("anchors", [slice(0, 90), slice(37, 38), slice(120, 211)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_some_rows_among_the_keys_of_all(
    backend: str, anchors: slice, grouped: bool, reduction: str, assert_as_accurate: Callable
) -> None:
    problem = Problem((211, 2, 16), torch.float32, grouped, anchors=anchors)
    compare(problem, backend, reduction, assert_as_accurate)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_anchors_among_keys(backend: str, reduction: str) -> None:
    noised, clean = torch.zeros(0, 2, 8, requires_grad=True), torch.ones(5, 2, 8, requires_grad=True)
    with use_backend(backend):
        loss = reasoning_info_nce(noised, clean, temperature=0.5, first_key=3, reduction=reduction).sum()
        loss.backward()
    assert loss.item() == 0 and not clean.grad.any() and noised.grad.shape == noised.shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bf16_precision_is_as_accurate_as_bfloat16_in_plain_pytorch(
    backend: str, shape: tuple[int, int, int], assert_as_accurate: Callable
) -> None:
    problem = Problem(shape, torch.float32)
    with use_backend(backend):
        got = [x.to(torch.bfloat16) for x in problem.kernel(torch.float32, "mean", "bf16")]
    exact = problem.plain(torch.float64, "mean")
    magnitudes = (problem.largest_similarity(), None, None)
    eager = problem.plain(torch.float32, "mean", rounded=True)
    for result, plain, true, magnitude in zip(got, eager, exact, magnitudes, strict=True):
        assert_as_accurate(result, plain, true, magnitude)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_similarities_of_hundreds(backend: str, reduction: str, assert_as_accurate: Callable) -> None:
    problem = Problem((80, 2, 16), torch.float32, scale=8.0)
    problem.temperature = 0.07
    assert problem.largest_similarity() > 200
    compare(problem, backend, reduction, assert_as_accurate)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("grouped", [False, True])
def test_gradcheck_of_the_reference(grouped: bool, reduction: str) -> None:
    problem = Problem((5, 2, 4), torch.float64, grouped)

    def loss(noised: Tensor, clean: Tensor) -> Tensor:
        return reasoning_info_nce(noised, clean, temperature=0.5, row_group=problem.group, reduction=reduction)

    with use_backend("reference"):
        assert torch.autograd.gradcheck(loss, problem.leaves(torch.float64))


@pytest.mark.parametrize("group", [None, "one", "same"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_without_negatives_loss_and_gradients_are_zero(backend: str, group: str | None) -> None:
    rows = 4 if group == "same" else 1
    noised, clean = torch.randn(rows, 3, 8, requires_grad=True), torch.randn(rows, 3, 8, requires_grad=True)
    row_group = None if group is None else torch.zeros(rows, dtype=torch.int32)
    with use_backend(backend):
        loss = reasoning_info_nce(noised, clean, temperature=0.07, row_group=row_group)
        terms = reasoning_info_nce(noised, clean, temperature=0.07, row_group=row_group, reduction="none")
    assert loss == 0 and not terms.any()
    for gradient in torch.autograd.grad(loss, (noised, clean)):
        assert not gradient.any()


@pytest.mark.parametrize("shape", [(0, 2, 8), (3, 0, 8)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_no_rows_or_no_steps(backend: str, shape: tuple[int, int, int]) -> None:
    noised, clean = torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    with use_backend(backend):
        loss = reasoning_info_nce(noised, clean, temperature=0.5)
        assert reasoning_info_nce(noised, clean, temperature=0.5, reduction="none").shape == shape[:2]
    assert loss == 0
    assert [g.shape for g in torch.autograd.grad(loss, (noised, clean))] == [shape, shape]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_of_one_group_are_not_each_others_negatives(backend: str) -> None:
    problem = Problem((6, 2, 8), torch.float32)
    noised, clean = problem.leaves(torch.float32)
    group = torch.tensor([3, -1, 3, 3, 8, -1])
    with use_backend(backend):
        terms = reasoning_info_nce(noised, clean, temperature=0.5, row_group=group, reduction="none")
        for r in range(6):
            # What row r sees: its own key and the keys of other groups.
            seen = [r, *(j for j in range(6) if group[j] != group[r])]
            alone = reasoning_info_nce(noised[seen], clean[seen], temperature=0.5, reduction="none")
            torch.testing.assert_close(terms[r], alone[0])


@pytest.mark.parametrize("backend", BACKENDS)
def test_groups_of_hundreds_of_rows_in_a_row(backend: str, assert_as_accurate: Callable) -> None:
    # Whole stretches of a row's similarities are masked, the first ones among them.
    problem = Problem((1500, 1, 8), torch.float32)
    problem.group = torch.arange(1500) // 700
    with use_backend(backend):
        got = problem.kernel(torch.float32, "none")
    eager, exact = problem.plain(torch.float32, "none"), problem.plain(torch.float64, "none")
    for result, plain, true in zip(got, eager, exact, strict=True):
        # On some processors the product adds 1,500 terms one by one where plain PyTorch's adds blocks of them: then the
        # roundings of the sum walk at random, half a unit each.
        assert_as_accurate(result, plain, true, magnitude=1500**0.5 / 2 * float(true.abs().max()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_non_contiguous_inputs(backend: str) -> None:
    problem = Problem((12, 3, 8), torch.float32, grouped=True)
    dense = problem.leaves(torch.float32)
    strided = tuple(x.detach().permute(2, 1, 0).contiguous().permute(2, 1, 0).requires_grad_() for x in dense)
    results = []
    with use_backend(backend):
        for leaves in (dense, strided):
            loss = reasoning_info_nce(*leaves, temperature=0.5, row_group=problem.group)
            results.append([loss, *torch.autograd.grad(loss, leaves)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)

"""Losses at precision "bf16x3", which takes every number of a product as two bfloat16, under one and two threads; and
the padded buffers and separate passes of the kernels by tiles that compute it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
    reasoning_info_nce,
    use_backend,
)

needs_tiles = pytest.mark.usefixtures("by_tiles")
# rows R, states T, width d, items N; blocks have 32 users and up to 256 items
SHAPES = [
    (1, 1, 1, 1),
    (5, 1, 7, 33),
    (1, 3, 24, 17),
    (200, 3, 24, 333),
    (67, 4, 64, 1031),
    (33, 6, 256, 513),
    (70, 9, 16, 50),
    (600, 1, 300, 700),
]


class Problem:
    """Random inputs and the losses of them, as functions of hidden [R, T, d] and weight [N, d] or clean [R, T, d]."""

    def __init__(self, shape: tuple[int, int, int, int], temperature: float = 0.3, scale: float = 1.0) -> None:
        rows, steps, width, items = shape
        generator = torch.Generator().manual_seed(rows + items)
        self.hidden, self.noise = torch.randn(2, rows, steps, width, generator=generator)
        self.weight = torch.randn(items, width, generator=generator) * scale * width**-0.5
        self.target = torch.randint(0, items, (rows,), generator=generator)
        self.target[2::3] = -100
        self.group = torch.randint(0, rows // 3 + 1, (rows,), generator=generator)
        self.upstream = torch.randn(rows, steps, generator=generator)
        self.temperature = temperature
        self.temperatures = annealed_temperatures(temperature, 1.5, steps - 1)
        self.similarity = 3 * temperature * width**0.5

    def losses(self, precision: str) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
        catalog = {"precision": precision, "temperature": self.temperatures}
        ensemble = {"precision": precision, "temperature": self.temperature, "kl_weight": 0.37}
        contrast = {"precision": precision, "temperature": self.similarity}
        return {
            "annealed": lambda h, e: annealed_cross_entropy(h, e, self.target, **catalog),
            "annealed rows": lambda h, e: self._weighted(
                annealed_cross_entropy(h, e, self.target, reduction="none", **catalog)
            ),
            "official": lambda h, e: ensemble_reasoning_loss(h, e, self.target, **ensemble).loss,
            "paper": lambda h, e: ensemble_reasoning_loss(h, e, self.target, kl_form="paper", **ensemble).loss,
            "contrast": lambda h, e: reasoning_info_nce(h, e, row_group=self.group, **contrast),
            "contrast rows": lambda h, e: self._weighted(reasoning_info_nce(h, e, reduction="none", **contrast)),
        }

    def _weighted(self, losses: Tensor) -> Tensor:
        return (losses * self.upstream.to(losses)).sum()

    def run(self, backend: str, loss: str, precision: str, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        second = self.hidden + self.noise if loss.startswith("contrast") else self.weight
        leaves = [x.to(dtype, copy=True).requires_grad_() for x in (self.hidden, second)]
        with use_backend(backend):
            value = self.losses(precision)[loss](*leaves)
        return [value.detach(), *torch.autograd.grad(value, leaves)]


LOSSES = list(Problem(SHAPES[0]).losses("fp32"))


def errors(got: Sequence[Tensor], exact: Sequence[Tensor]) -> list[float]:
    """Of the loss, and of both gradients relative to their largest entry."""
    scale = [max(1.0, float(exact[0].abs())), *(max(float(x.abs().max()), 1e-6) for x in exact[1:])]
    return [float((a.double() - b).abs().max()) / s for a, b, s in zip(got, exact, scale, strict=True)]


@needs_tiles
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_are_as_accurate_as_three_products_in_plain_pytorch(
    shape: tuple[int, int, int, int], loss: str, threads: int, set_threads: Callable[[int], None]
) -> None:
    problem = Problem(shape)
    set_threads(threads)
    exact = problem.run("reference", loss, "fp32", torch.float64)
    eager = errors(problem.run("reference", loss, "bf16x3"), exact)
    for got, allowed in zip(errors(problem.run("cpu", loss, "bf16x3"), exact), eager, strict=True):
        assert got <= 2 * allowed + 1e-5


@needs_tiles
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_two_parts_are_worth_far_more_than_one(backend: str, loss: str) -> None:
    problem = Problem((150, 3, 64, 700))
    exact = problem.run("reference", loss, "fp32", torch.float64)
    one, two = (errors(problem.run(backend, loss, precision), exact) for precision in ("bf16", "bf16x3"))
    for rounded, split in zip(one[1:], two[1:], strict=True):
        assert split <= 1e-4
        assert 30 * split < rounded


@needs_tiles
@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
@pytest.mark.parametrize("loss", LOSSES[:4])
def test_logits_of_hundreds(loss: str, precision: str) -> None:
    problem = Problem((64, 3, 32, 500), temperature=0.07, scale=4.0)
    assert (problem.hidden @ problem.weight.T / 0.07).abs().max() > 200
    exact = problem.run("reference", loss, "fp32", torch.float64)
    eager = errors(problem.run("reference", loss, precision), exact)
    for got, allowed in zip(errors(problem.run("cpu", loss, precision), exact), eager, strict=True):
        assert got <= 2 * allowed + 1e-5


@needs_tiles
@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
@pytest.mark.parametrize("loss", LOSSES[:4])
def test_no_row_that_counts(loss: str, precision: str) -> None:
    problem = Problem((4, 2, 8, 20))
    problem.target.fill_(-100)
    for x in problem.run("cpu", loss, precision):
        assert not x.any()


@needs_tiles
@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
@pytest.mark.parametrize("loss", LOSSES)
def test_operands_in_bfloat16_and_gradients_one_at_a_time(loss: str, precision: str) -> None:
    problem = Problem((70, 3, 24, 333))
    second = (problem.hidden + problem.noise if loss.startswith("contrast") else problem.weight).bfloat16()
    first = problem.hidden.bfloat16()
    function = problem.losses(precision)[loss]
    with use_backend("cpu"):
        leaves = first.float().requires_grad_(), second.float().requires_grad_()
        expected = torch.autograd.grad(function(*leaves), leaves)
        rows, table = first.clone().requires_grad_(), second.clone().requires_grad_()
        got = (
            *torch.autograd.grad(function(rows, second), rows),
            *torch.autograd.grad(function(first, table), table),
        )
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b.bfloat16().float(), rtol=2**-7, atol=1e-6)


class Guarded:
    """Tensors that lie between untouched memory."""

    def __init__(self) -> None:
        self._whole: list[tuple[Tensor, int, int]] = []

    def empty(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        count, margin = int(torch.Size(shape).numel()), 4096 // dtype.itemsize
        whole = torch.full((count + 2 * margin,), 77, dtype=dtype)
        self._whole.append((whole, margin, count))
        return whole[margin : margin + count].view(tuple(shape))

    def check(self) -> None:
        assert self._whole
        for whole, margin, count in self._whole:
            assert (whole[:margin] == 77).all() and (whole[margin + count :] == 77).all()


@needs_tiles
@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_beyond_the_buffers_is_written(
    shape: tuple[int, int, int, int], precision: str, monkeypatch: pytest.MonkeyPatch, set_threads: Callable
) -> None:
    from rearec_kernels.cpu import losses, tiled_softmax

    guarded = Guarded()
    monkeypatch.setattr(losses, "empty", guarded.empty)
    monkeypatch.setattr(tiled_softmax, "empty", guarded.empty)
    problem = Problem(shape)
    for threads in (1, 2):
        set_threads(threads)
        for loss in LOSSES:
            problem.run("cpu", loss, precision)
    guarded.check()


@needs_tiles
@pytest.mark.parametrize("split", [1, 32, 40, 300])
def test_a_catalogue_in_two_parts_needs_only_a_reduction_between_the_passes(split: int) -> None:
    from rearec_kernels.cpu.softmax import CrossEntropyStatistics, Passes
    from rearec_kernels.cpu.tiled_softmax import TiledSoftmax

    users, steps, width, items, inverse_temperature = 70, 2, 20, 333, 1 / 0.4
    rows, table = torch.randn(users * steps, width), torch.randn(items, width)
    target = torch.randint(0, items, (users,))
    coefficient = torch.rand(users, steps)
    scale = torch.full((steps,), inverse_temperature)
    grad_rows, grad_table = torch.zeros(2, users * steps, width), torch.empty(items, width)

    class Part:
        def __init__(self, number: int, first: int, end: int) -> None:
            local = torch.where((target >= first) & (target < end), target - first, -1)
            self.order = local.argsort()  # of the users
            row_order = (self.order[:, None] * steps + torch.arange(steps)).flatten()
            self.operands = rows[row_order], table[first:end], local[self.order], steps
            self.gradients = torch.empty(users * steps, width), grad_table[first:end]
            self.statistics = CrossEntropyStatistics(users, steps)
            self.row_order, self.total = row_order, grad_rows[number]

        def run(self, statistics: bool, gradient: bool) -> None:
            softmax = TiledSoftmax(*self.operands, *self.gradients, "bf16x3")
            ordered = coefficient[self.order].contiguous()
            softmax.cross_entropy(Passes(statistics, gradient), scale, self.statistics, ordered)
            self.total[self.row_order] = self.gradients[0]

        def in_user_order(self, x: Tensor) -> Tensor:
            return torch.empty_like(x).index_copy_(0, self.order, x)

    parts = [Part(0, 0, split), Part(1, split, items)]
    for part in parts:
        part.run(True, False)
    shifts = [part.in_user_order(part.statistics.shift) for part in parts]
    norms = [part.in_user_order(part.statistics.norm) for part in parts]
    shift = torch.maximum(*shifts)
    norm = sum(n * ((s - shift) * inverse_temperature).exp() for s, n in zip(shifts, norms, strict=True))
    for part in parts:
        part.statistics.shift.copy_(shift[part.order])
        part.statistics.norm.copy_(norm[part.order])
        part.run(False, True)

    leaves: list[Any] = [x.double().requires_grad_() for x in (rows, table)]
    z = leaves[0] @ leaves[1].T * inverse_temperature
    losses = torch.nn.functional.cross_entropy(z, target.repeat_interleave(steps), reduction="none")
    expected = torch.autograd.grad((losses * coefficient.flatten()).sum(), leaves)
    for got, exact in zip((grad_rows.sum(0), grad_table), expected, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=0, atol=1e-4 * float(exact.abs().max()))

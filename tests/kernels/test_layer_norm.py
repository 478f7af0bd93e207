"""Dropout, residual, LayerNorm and dropout as one op: values, masks and gradients."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from instruction_sets import instruction_sets
from patience import PATIENCE
from torch import Tensor

from rearec_kernels import available_backends, dropout_add_layer_norm, use_backend
from rearec_kernels.reference.layer_norm import element_bits

BACKENDS = [name for name in available_backends("cpu") if name in ("cpu", "reference")]
EPS = 1e-12


def problem(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, residual: bool = True) -> list[Tensor]:
    """x, residual, weight, bias."""
    x, other = torch.randn(2, *shape, dtype=torch.float64).unbind()
    weight, bias = 1 + 0.3 * torch.randn(2, shape[-1], dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in (x, other, weight, bias) if residual or t is not other]


def run(leaves: list[Tensor], upstream: Tensor, **options: Any) -> list[Tensor]:
    """The result, and the gradient of every leaf."""
    x, *residual, weight, bias = leaves
    out = dropout_add_layer_norm(x, residual[0] if residual else None, weight, bias, eps=EPS, **options)
    return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]


def plainly(leaves: list[Tensor], before: Tensor, after: Tensor) -> Tensor:
    """With masks, already scaled, given."""
    x, *residual, weight, bias = leaves
    total = sum(residual, x * before)
    return F.layer_norm(total, weight.shape, weight, bias, EPS) * after


def relative_error(got: list[Tensor], exact: list[Tensor]) -> float:
    return max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in zip(got, exact, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (3, 16), (7, 50), (300, 64), (33, 300), (2, 70, 256), (0, 8)])
@pytest.mark.parametrize("p", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.2), (0.3, 0.6)])
def test_equals_the_formula(backend: str, shape: tuple[int, ...], residual: bool, p: tuple[float, float]) -> None:
    torch.manual_seed(sum(shape))
    leaves = problem(shape, residual=residual)
    upstream = torch.randn(shape, dtype=torch.float64)
    masks = []
    for stream, probability in enumerate(p):
        threshold = round(probability * 2**16)
        bits = element_bits(torch.tensor([11]), stream, leaves[0].numel()).view(shape)
        masks.append((bits >= threshold).double() * (65536 / (65536 - threshold)))
    expected = plainly(leaves, *masks)
    exact = [expected.detach(), *torch.autograd.grad(expected, leaves, upstream)]
    single = [x.detach().float().requires_grad_() for x in leaves]
    with use_backend(backend):
        got = run(single, upstream, dropout_p=p[0], output_dropout_p=p[1], seed=11)
    if leaves[0].numel() == 0:
        assert all(bool((x == 0).all()) for x in got)
        return
    eager = plainly(single, *(mask.float() for mask in masks))
    eager_results = [eager.detach(), *torch.autograd.grad(eager, single, upstream.float())]
    for name, a, b, plain in zip(("out", "x", "residual", "weight", "bias"), got, exact, eager_results, strict=False):
        scale = max(1.0, b.abs().max().item())
        error, eager_error = (((t.double() - b).abs().max() / scale).item() for t in (a, plain))
        assert error <= max(2 * eager_error, 1e-6), name


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_rows_with_float32_residual(backend: str) -> None:
    leaves = [t.detach() for t in problem((40, 64))]
    leaves[0] = leaves[0].bfloat16()
    upstream = torch.randn(40, 64)
    mixed = [t.to(torch.bfloat16 if i == 0 else torch.float32).requires_grad_() for i, t in enumerate(leaves)]
    exact = run([t.double().requires_grad_() for t in leaves], upstream, dropout_p=0.5, seed=3)
    with use_backend(backend):
        got = run(mixed, upstream, dropout_p=0.5, seed=3)
    assert [t.dtype for t in got] == [torch.float32, torch.bfloat16, *[torch.float32] * 3]
    assert relative_error([got[0], *got[2:]], [exact[0], *exact[2:]]) < 1e-5
    assert relative_error(got[1:2], exact[1:2]) < 2**-7


@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_are_drawn_from_the_generator(backend: str) -> None:
    x, residual, weight, bias = (t.detach() for t in problem((5, 32), torch.float32))

    def draw() -> Tensor:
        return dropout_add_layer_norm(x, residual, weight, bias, dropout_p=0.5)

    with use_backend(backend):
        torch.manual_seed(1)
        first = draw()
        assert not torch.equal(first, draw())
        torch.manual_seed(1)
        assert torch.equal(first, draw())


def test_the_two_masks_and_neighbouring_seeds_are_independent() -> None:
    bits = torch.stack([element_bits(torch.tensor([s]), stream, 100_000) for s in (0, 1) for stream in (0, 1)])
    dropped = (bits < 2**15).double()
    assert (dropped.mean(1) - 0.5).abs().max() < 5 * 0.5 / 100_000**0.5
    correlation = torch.corrcoef(dropped) - torch.eye(4, dtype=torch.float64)
    assert correlation.abs().max() < 5 / 100_000**0.5
    assert len(element_bits(torch.tensor([0]), 0, 77)) == 77


def test_gradcheck_where_torch_computes() -> None:
    leaves = problem((4, 6))

    def call(*tensors: Tensor) -> Tensor:
        return dropout_add_layer_norm(*tensors, dropout_p=0.4, output_dropout_p=0.3, seed=5)

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no native module in this install")
def test_op_is_registered_as_torch_wants_it() -> None:
    x, residual, weight, bias = problem((6, 20), torch.float32)
    seed = torch.tensor([3])
    for other in (residual, None):
        torch.library.opcheck(
            torch.ops.rearec.dropout_add_layer_norm.default,
            (x, other, weight, bias, 1e-5, 0.3, 0.2, seed, 2, 3, 9, "cpu"),
        )


@pytest.mark.skipif("cpu" not in BACKENDS, reason="no native module in this install")
def test_differentiating_twice_is_an_error() -> None:
    x, residual, weight, bias = problem((6, 20), torch.float32)
    out = dropout_add_layer_norm(x, residual, weight, bias)
    (gradient,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="dropout_add_layer_norm can be differentiated once"):
        torch.autograd.grad(gradient.sum(), x)


def test_the_number_of_threads_changes_no_row() -> None:
    x, residual, weight, bias = problem((3000, 48), torch.float32)
    threads = torch.get_num_threads()
    outputs = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            outputs.append(run([x, residual, weight, bias], torch.ones(3000, 48), dropout_p=0.5, seed=9))
    finally:
        torch.set_num_threads(threads)
    for got in outputs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(got[:3], outputs[0][:3], strict=True))
        assert relative_error(got[3:], [g.double() for g in outputs[0][3:]]) < 1e-5


VALUES = """
import torch, rearec_kernels as rk
torch.manual_seed(0)
print(rk.build_info()["isa"])
for dtype in (torch.float32, torch.bfloat16):
    for width in (1, 5, 16, 50, 64, 300):
        x, other, weight, bias = torch.randn(40, width), torch.randn(40, width), torch.randn(width), torch.randn(width)
        x = x.to(dtype)
        results = []
        for backend in ("reference", "cpu"):
            leaves = [t.clone().requires_grad_() for t in (x, other, weight, bias)]
            with rk.use_backend(backend):
                out = rk.dropout_add_layer_norm(*leaves, eps=1e-3, dropout_p=0.5, output_dropout_p=0.2, seed=1)
            results.append([out.detach(), *torch.autograd.grad(out.square().sum(), leaves)])
        for a, b in zip(*results):
            bound = 1e-4 if a.dtype is torch.float32 else 2**-6
            assert (a.float() - b.float()).abs().max() <= bound * max(1, a.float().abs().max()), (dtype, width)
"""


@pytest.mark.parametrize("isa", instruction_sets())
def test_every_instruction_set_of_this_machine_computes_the_same(isa: str) -> None:
    environment = {**os.environ, "REAREC_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", VALUES], capture_output=True, text=True, env=environment, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor, got torch.int64"),
        ({"residual": torch.zeros(3)}, ValueError, r"residual must have the shape of x \[2, 3\], got \[3\]"),
        ({"weight": torch.zeros(2)}, ValueError, r"weight must have shape \[d\] with d = 3, got \[2\]"),
        ({"bias": torch.zeros(3).double()}, ValueError, "weight and bias must have one dtype"),
        ({"dropout_p": 1.0}, ValueError, r"dropout_p must be in \[0, 1\), got 1.0"),
        ({"output_dropout_p": -0.1}, ValueError, r"output_dropout_p must be in \[0, 1\), got -0.1"),
        ({"dropout_p": 0.5, "seed": "1"}, TypeError, "seed must be an int, got str"),
    ],
)
def test_wrong_arguments_are_named(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"x": torch.zeros(2, 3), "residual": torch.zeros(2, 3), "weight": torch.ones(3), "bias": torch.ones(3)}
    with pytest.raises(error, match=message):
        dropout_add_layer_norm(**(arguments | change))

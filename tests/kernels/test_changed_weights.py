"""Weights that change between calls, eager and compiled: the right answer or an error, never that of the old ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_stack import LayerStack
from torch import Tensor

from rearec_kernels import available_backends, catalog_rank, catalog_topk, prepare_catalog, use_backend

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
COMPILERS = [None, "eager", "aot_eager"]


def step_of(make: Callable[..., torch.optim.Optimizer]) -> Callable[[list[Tensor]], None]:
    def step(weights: list[Tensor]) -> None:
        parameters = [torch.nn.Parameter(x.detach()) for x in weights]
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        make(parameters, lr=0.3).step()

    return step


def by_data(weights: list[Tensor]) -> None:
    for x in weights:
        x.data.add_(0.3)


def in_place(weights: list[Tensor]) -> None:
    for x in weights:
        x.mul_(-1.5)


def in_inference_mode(weights: list[Tensor]) -> None:
    with torch.inference_mode():
        for x in weights:
            x.copy_(x.flip(0) + 0.1)


def by_foreach(weights: list[Tensor]) -> None:
    torch._foreach_add_(weights, 0.3)


def other_memory(weights: list[Tensor]) -> None:
    for x in weights:
        x.data = x.data * -1.5


def compiled_write(weights: list[Tensor]) -> None:
    torch.compile(in_place, backend="aot_eager")(weights)


WRITES = {
    "in place": in_place,
    "data": by_data,
    "inference mode": in_inference_mode,
    "foreach": by_foreach,
    "compiled": compiled_write,
    "fused AdamW": step_of(lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True)),
    "fused SGD": step_of(lambda p, lr: torch.optim.SGD(p, lr=lr, fused=True)),
    "foreach Adam": step_of(lambda p, lr: torch.optim.Adam(p, lr=lr, foreach=True)),
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("write", [*WRITES, "other memory"])
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_rollout(backend: str, write: str, compiler: str | None) -> None:
    torch.manual_seed(0)
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()

    def states() -> Tensor:
        return problem.states(2, layers)

    run = states if compiler is None else torch.compile(states, backend=compiler)
    weights = [*problem.input_norm, *(x for layer in problem.layers for x in layer)]
    with use_backend(backend):
        for _ in range(2):
            before = run()
            {**WRITES, "other memory": other_memory}[write](weights)
            after, expected = run(), problem.states(2)
            assert torch.equal(after, expected)
            assert not torch.allclose(before, expected)


@torch.no_grad()
def test_an_explicit_refresh() -> None:
    """For the write of a single element, through .data, between the values that are looked at."""
    problem = LayerStack.random(4, dim=64, ffn=64).to(torch.float32)
    layers = problem.prepared()
    problem.states(2, layers)
    problem.layers[0].inner_weight.data[3, 1] += 50
    layers.refresh()
    assert torch.equal(problem.states(2, layers), problem.states(2))


@torch.no_grad()
def test_weights_that_are_not_numbers_are_no_change() -> None:
    problem = LayerStack.random(4).to(torch.float32)
    problem.layers[0].inner_bias[:] = float("nan")
    layers = problem.prepared()
    problem.states(1, layers)
    derived = dict(layers._operands)
    problem.states(1, layers)
    assert all(layers._operands[name] is x for name, x in derived.items())


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("backend", BACKENDS)
@torch.no_grad()
def test_a_catalogue(backend: str, write: str, precision: str, compiler: str | None) -> None:
    """Eagerly refused, as it has to be prepared again; compiled it is the table."""
    torch.manual_seed(0)
    table, hidden, target = torch.randn(200, 8), torch.randn(4, 8), torch.arange(4)
    with use_backend(backend):
        catalog = prepare_catalog(table, precision)

        def search() -> tuple[Tensor, Tensor, Tensor]:
            best = catalog_topk(hidden, catalog, 5, precision=precision)
            return *best, catalog_rank(hidden, catalog, target, precision=precision)

        run = search if compiler is None else torch.compile(search, backend=compiler)
        run()
        WRITES[write]([table])
        if compiler is None:
            with pytest.raises(ValueError, match="the table was written to after prepare_catalog"):
                run()
            return
        got = run()
        best = catalog_topk(hidden, table, 5, precision=precision)
        for x, y in zip(got, (*best, catalog_rank(hidden, table, target, precision=precision)), strict=True):
            assert torch.equal(x, y)

"""Weights that change between calls: in compiled code they count at once, eagerly after `refresh`; no answer before it
mixes old and new ones."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_stack import LayerStack
from torch import Tensor

from rearec_kernels import available_backends, catalog_rank, catalog_topk, native, prepare_catalog, use_backend

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
COMPILERS = ["eager", "aot_eager"]


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
    "other memory": other_memory,
    "fused AdamW": step_of(lambda p, lr: torch.optim.AdamW(p, lr=lr, fused=True)),
    "fused SGD": step_of(lambda p, lr: torch.optim.SGD(p, lr=lr, fused=True)),
    "foreach Adam": step_of(lambda p, lr: torch.optim.Adam(p, lr=lr, foreach=True)),
}
writes = pytest.mark.parametrize("write", WRITES)
compilers = pytest.mark.parametrize("compiler", COMPILERS)
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def nothing_compiled() -> None:
    """What torch.compile could not compile in an earlier test it would leave to Python in the next."""
    torch._dynamo.reset()


def weights_of(problem: LayerStack) -> list[Tensor]:
    """All of them, the position embedding too."""
    assert problem.position_embedding is not None
    return [*problem.input_norm, *(x for layer in problem.layers for x in layer), problem.position_embedding]


@writes
@backends
@torch.no_grad()
def test_a_rollout_after_refresh(backend: str, write: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    with use_backend(backend):
        for _ in range(2):
            before = problem.states(2, layers)
            WRITES[write](weights_of(problem))
            layers.refresh()
            after = problem.states(2, layers)
            assert torch.equal(after, problem.states(2))
            assert not torch.allclose(before, after)


@writes
@backends
@torch.no_grad()
def test_a_rollout_without_refresh_is_that_of_the_old_or_of_the_new_weights(backend: str, write: str) -> None:
    """Of all of them: those of the position embedding and the norms too."""
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    with use_backend(backend):
        before = problem.states(2, layers)
        WRITES[write](weights_of(problem))
        expected = before if backend == "cpu" else problem.states(2)
        assert torch.equal(problem.states(2, layers), expected)


@compilers
@writes
@backends
@torch.no_grad()
def test_a_compiled_rollout(backend: str, write: str, compiler: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    run = torch.compile(lambda: problem.states(2, layers), backend=compiler)
    with use_backend(backend):
        problem.states(2, layers)  # packed copies are there already
        for _ in range(2):
            before = run()
            WRITES[write](weights_of(problem))
            after, expected = run(), problem.states(2)
            assert torch.equal(after, expected)
            assert not torch.allclose(before, expected)


@compilers
@torch.no_grad()
def test_compiled_code_refuses_weights_that_no_longer_fit(compiler: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    run = torch.compile(lambda: problem.states(2, layers), backend=compiler)
    run()
    problem.layers[0].inner_bias.data = torch.zeros(3)
    with pytest.raises(Exception, match=r"inner_bias of layer 0 must have shape \[12\], got \[3\]"):
        run()


class Search:
    """The top-k and the ranks of a table, prepared and as it is."""

    def __init__(self, backend: str, precision: str) -> None:
        self.table, self.hidden, self.target = torch.randn(200, 8), torch.randn(4, 8), torch.arange(4)
        self.precision = precision
        with use_backend(backend):
            self.catalog = prepare_catalog(self.table, precision)

    def __call__(self, prepared: bool = True) -> list[Tensor]:
        table = self.catalog if prepared else self.table
        best = catalog_topk(self.hidden, table, 5, precision=self.precision)
        return [*best, catalog_rank(self.hidden, table, self.target, precision=self.precision)]


def same(got: list[Tensor], expected: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@writes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@backends
@torch.no_grad()
def test_a_catalogue_after_refresh(backend: str, precision: str, write: str) -> None:
    search = Search(backend, precision)
    with use_backend(backend):
        search()
        WRITES[write]([search.table])
        search.catalog.refresh()
        assert same(search(), search(prepared=False))


@writes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@backends
@torch.no_grad()
def test_a_catalogue_without_refresh_is_that_of_one_table_or_an_error(
    backend: str, precision: str, write: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy is the old table; the table itself is the new one, unless it was given other memory. By tiles, the top-k
    in fp32 reads both, and says so."""
    monkeypatch.setattr(native, "MULTIPLIES_BF16", native.TILES is not None)  # by tiles for few rows too
    search = Search(backend, precision)
    with use_backend(backend):
        before = search()
        WRITES[write]([search.table])
        expected = before if precision == "bf16" or write == "other memory" else search(prepared=False)
        if search.catalog.read()[1] is not None and expected is not before:
            with pytest.raises(ValueError, match="the table was written to after prepare_catalog; call refresh"):
                search()
        else:
            assert same(search(), expected)


@compilers
@writes
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@backends
@torch.no_grad()
def test_a_compiled_catalogue_is_the_table(backend: str, precision: str, write: str, compiler: str) -> None:
    search = Search(backend, precision)
    run = torch.compile(lambda: search(), backend=compiler)
    with use_backend(backend):
        run()
        WRITES[write]([search.table])
        assert same(run(), search(prepared=False))


@torch.no_grad()
def test_a_parameter_that_is_given_other_memory_is_followed() -> None:
    """As `module.load_state_dict(assign=False)`, `.to(dtype)` and sharding do it."""
    parameter = torch.nn.Parameter(torch.randn(20, 4))
    catalog = prepare_catalog(parameter)
    parameter.data = torch.randn(30, 4)
    catalog.refresh()
    hidden = torch.randn(2, 4)
    assert same([*catalog_topk(hidden, catalog, 5)], [*catalog_topk(hidden, parameter, 5)])

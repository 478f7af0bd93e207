"""The rollout of all layers and steps in one call: right in every shape, independent of its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from layer_stack import LayerStack
from torch import Tensor

from rearec_kernels import (
    LayerWeights,
    PrefixRows,
    available_backends,
    prepare_layers,
    reasoning_rollout,
    resolve_backend,
    use_backend,
)

BACKENDS = [name for name in available_backends("cpu") if name != "triton"]
NATIVE = "cpu" in BACKENDS
pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.filterwarnings("ignore:reasoning_rollout. backend 'cpu' does not serve torch"),
]


def exact_states(problem: LayerStack, steps: int) -> Tensor:
    with use_backend("reference"):
        return problem.states(steps)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rows", "slots", "layers", "heads", "dim", "ffn", "steps"),
    [
        (1, 50, 2, 2, 256, 300, 2),
        (256, 20, 2, 2, 64, 128, 2),
        (13, 7, 1, 3, 48, 100, 5),
        (14, 5, 2, 1, 32, 31, 1),
        (49, 3, 3, 5, 10, 1, 3),
        (97, 1, 1, 1, 66, 7, 2),
        (3, 4, 2, 1, 1, 2, 2),
        (5, 4, 2, 2, 512, 33, 0),
        (0, 4, 2, 2, 16, 8, 2),
    ],
)
def test_as_accurate_as_plain_pytorch(
    rows: int, slots: int, layers: int, heads: int, dim: int, ffn: int, steps: int,
    backend: str, assert_as_accurate: Callable[..., None],
) -> None:  # fmt: skip
    exact, eager, got = [], [], []
    # The largest of the few roundings of one row is a matter of chance.
    for _ in range(8 if rows == 1 else 1):
        problem = LayerStack.random(rows, slots, layers=layers, heads=heads, dim=dim, ffn=ffn, steps=steps)
        single = problem.to(torch.float32)
        exact.append(exact_states(problem, steps))
        eager.append(exact_states(single, steps))
        with use_backend(backend):
            got.append(single.states(steps))
        assert got[-1].dtype == torch.float32
        assert got[-1].shape == (rows, steps + 1, dim)
        assert torch.equal(got[-1][:, 0], single.hidden)
    assert_as_accurate(torch.cat(got), torch.cat(eager), torch.cat(exact))


@pytest.mark.parametrize("backend", BACKENDS)
def test_defaults_and_views(backend: str, assert_as_accurate: Callable[..., None]) -> None:
    """No position embedding, every row its own whole prefix, and K and V that are parts of one tensor."""
    problem = replace(LayerStack.random(6), position_embedding=None, rows=None)
    both = [torch.randn(6, 9, 2, 2, 8).double() for _ in problem.layers]
    hidden = torch.randn(16, 6).double()

    def views(dtype: torch.dtype) -> LayerStack:
        keys, values = ([x.to(dtype)[:, 2:, i] for x in both] for i in (0, 1))
        assert not any(x.is_contiguous() for x in keys + values)
        return replace(problem.to(dtype), keys=keys, values=values, hidden=hidden.to(dtype).T)

    single = views(torch.float32)
    with use_backend(backend):
        got = single.states(3)
    assert_as_accurate(got, exact_states(single, 3), exact_states(views(torch.float64), 3))


@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
@pytest.mark.parametrize("scale", [0.0, 1e-4, 30.0, 1e4])
def test_extremes_of_the_feed_forward_layer_and_of_attention(scale: float) -> None:
    """Scores of ±10,000, GELU far in both tails, tokens that are constant before a LayerNorm."""
    problem = LayerStack.random(200)
    layer = problem.layers[0]
    layer = layer._replace(query_weight=layer.query_weight * scale, inner_weight=layer.inner_weight * scale)
    problem = replace(problem, layers=[layer, *problem.layers[1:]])
    assert problem.position_embedding is not None
    problem.hidden[:100] = 7.0
    problem.position_embedding[0] = 1.0
    single = problem.to(torch.float32)
    with use_backend("cpu"):
        got = single.states(2)
    assert got.isfinite().all()
    exact = exact_states(problem, 2)
    # Rows with nearly tied scores of thousands err by their condition, in PyTorch as here: the others are compared.
    error, eager_error = ((x - exact).abs().amax((1, 2)).quantile(0.8) for x in (got, exact_states(single, 2)))
    assert error <= 2 * eager_error


@pytest.mark.skipif(not NATIVE, reason="no native module in this install")
@pytest.mark.parametrize(("dim", "heads"), [(48, 3), (320, 5), (256, 1)])
def test_a_row_does_not_depend_on_its_batch_nor_on_the_threads(
    dim: int, heads: int, set_threads: Callable[[int], None]
) -> None:
    problem = LayerStack.random(131, dim=dim, heads=heads, ffn=150).to(torch.float32)
    layers = problem.prepared()
    set_threads(1)
    states = problem.states(2, layers)
    assert problem.rows is not None
    index = problem.rows.index(65, 9, torch.device("cpu"))
    for threads in (1, 2, 3):
        set_threads(threads)
        assert torch.equal(problem.states(2, layers), states)
        for rows in ([0], [5, 99], [130, 7, 7], list(range(40, 57)), list(range(40, 90))):
            seen = PrefixRows(index.start[rows], index.end[rows], index.row_prefix[rows])
            part = replace(problem, hidden=problem.hidden[rows], rows=seen)
            assert torch.equal(part.states(2, layers), states[rows])


def write(x: Tensor) -> None:
    x.mul_(1.5)


def replace_memory(x: Tensor) -> None:
    x.data = x.data * 1.5


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("change", [write, replace_memory])
@pytest.mark.parametrize("name", [*LayerWeights._fields, "input_norm", "position_embedding"])
def test_every_weight_counts_after_refresh(name: str, change: Callable[[Tensor], None], backend: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    given = {"input_norm": problem.input_norm[0], "position_embedding": problem.position_embedding}
    changed = given[name] if name in given else getattr(problem.layers[1], name)
    with use_backend(backend):
        layers = problem.prepared()
        before = problem.states(2, layers)
        change(changed)
        layers.refresh()
        after = problem.states(2, layers)
        assert not torch.equal(after, before) or name == "key_bias"  # which shifts all scores of a query alike
        assert torch.equal(after, problem.states(2))


def test_weights_that_no_longer_fit_are_refused() -> None:
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    problem.layers[0].inner_bias.data = torch.zeros(3)
    for call in (layers.refresh, lambda: problem.states(1, layers)):
        with pytest.raises(ValueError, match=r"inner_bias of layer 0 must have shape \[12\], got \[3\]"):
            call()


@pytest.mark.parametrize("backend", BACKENDS)
def test_traced_and_compiled(backend: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    layers = problem.prepared()
    with use_backend(backend):
        expected = problem.states(2, layers)
        index = problem.rows.index(2, 9, torch.device("cpu"))
        torch.library.opcheck(
            torch.ops.rearec.rollout.default,
            (
                problem.hidden, *layers.packed(backend), problem.keys, problem.values,
                layers.heads, layers.ffn, 2, layers.norm_eps, True, *index[:4], backend,
            ),
        )  # fmt: skip
        compiled = torch.compile(lambda: problem.states(2, layers), fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(), expected)


@pytest.mark.parametrize("rows", [1, 5, 70])
@pytest.mark.parametrize("backend", BACKENDS)
def test_tokens_are_a_prefix_to_go_on_from(backend: str, rows: int) -> None:
    """Two steps, and then two more that see K and V of the first ones as part of their prefix."""
    problem = LayerStack.random(rows, steps=4, dim=24, heads=3).to(torch.float32)
    problem.rows = None
    problem.keys, problem.values = ([torch.randn(rows, 9, 3, 8) for _ in range(2)] for _ in range(2))
    with use_backend(backend):
        at_once = problem.states(4)
        states, tokens = problem.states(2, return_tokens=True)
        assert torch.equal(states, problem.states(2)) and tokens.shape == (2, 2, rows, 2, 3, 8)
        longer = [[torch.cat([x, new], 1) for x, new in zip(of, kept, strict=True)]
                  for of, kept in ((problem.keys, tokens[:, 0]), (problem.values, tokens[:, 1]))]  # fmt: skip
        assert problem.position_embedding is not None
        later = replace(
            problem, hidden=states[:, -1], keys=longer[0], values=longer[1],
            position_embedding=problem.position_embedding[2:],
        )  # fmt: skip
        torch.testing.assert_close(later.states(2), at_once[:, 2:], rtol=1e-5, atol=1e-5)


def test_it_has_no_derivative_and_says_so() -> None:
    problem = LayerStack.random(4).to(torch.float32)
    with torch.enable_grad():
        problem.states(1)  # nothing requires any
        for x in (problem.hidden, problem.keys[0], problem.layers[1].outer_bias):
            x.requires_grad_()
            with pytest.raises(RuntimeError, match="reasoning_rollout: has no derivative; call it under"):
                problem.states(1)
            x.requires_grad_(False)


def test_where_it_runs() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert resolve_backend("reasoning_rollout", cpu, torch.float32) == BACKENDS[0]
    assert resolve_backend("reasoning_rollout", cpu, torch.bfloat16) == "reference"
    assert resolve_backend("reasoning_rollout", cuda, torch.float32) == "reference"


def wrong(name: str, value: Any) -> Callable[[LayerStack], LayerStack]:
    return lambda problem: replace(problem, **{name: value(problem)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (wrong("layers", lambda p: []), "layers must be one or more LayerWeights, got none"),
        (wrong("layers", lambda p: [tuple(p.layers[0])]), "layers must be one or more LayerWeights, got tuple"),
        (wrong("heads", lambda p: 3), "heads must divide d = 16, got 3"),
        (wrong("heads", lambda p: 0), "heads must be at least 1, got 0"),
        (wrong("heads", lambda p: 4), r"keys and values must be \[S, C, 4, 4\] of one shape, dtype and device"),
        (wrong("input_norm", lambda p: p.input_norm[0]), "input_norm must be a pair"),
        (wrong("position_embedding", lambda p: p.hidden[:1]), "steps is 2, the position embedding has 1 rows"),
        (wrong("position_embedding", lambda p: p.hidden[:, :3]), r"position_embedding must have shape \[4, 16\]"),
        (
            wrong("layers", lambda p: [p.layers[0], p.layers[1]._replace(outer_weight=p.hidden)]),
            r"outer_weight of layer 1 must have shape \[16, 12\], got \[4, 16\]",
        ),
        (
            wrong("layers", lambda p: [p.layers[0]._replace(key_bias=p.layers[0].key_bias.double())]),
            "key_bias of layer 0 is torch.float64 on cpu, expected torch.float32 on cpu as input_norm",
        ),
        (wrong("layers", lambda p: [p.layers[0]._replace(key_bias=None)]), "key_bias of layer 0 must be a floating"),
        (wrong("hidden", lambda p: p.hidden[:, :3]), r"hidden must have shape \[R, 16\] as the layers, got \[4, 3\]"),
        (wrong("hidden", lambda p: p.hidden[:3]), "hidden has 3 rows, the prefix is seen by 4"),
        (wrong("hidden", lambda p: p.hidden.double()), "hidden is torch.float64 on cpu, the layers are torch.float32"),
        (wrong("keys", lambda p: p.keys[:1]), "one tensor per layer, 2, got 1 and 2"),
        (wrong("keys", lambda p: [k[:, :3] for k in p.keys]), "k and v must agree"),
        (wrong("keys", lambda p: [k.mT for k in p.keys]), "the last dimension of k must be dense"),
    ],
)
def test_bad_arguments(change: Callable[[LayerStack], LayerStack], message: str) -> None:
    problem = change(LayerStack.random(4).to(torch.float32))
    with pytest.raises((TypeError, ValueError), match=message):
        problem.states(2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps must be at least 0"),
        ({"steps": 1.0}, "steps must be an int"),
        ({"layers": 3}, "got int"),
        ({"rows": torch.arange(4)}, r"rows must be a PrefixRows, got torch.int64 \[4\]"),
        (
            {"keys": torch.zeros(2, 4, 3, 2, 8)},
            r"keys must be a list of tensors, one per layer, got torch.float32",
        ),
        ({"values": None}, "values must be a list of tensors, one per layer, got NoneType"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    problem = LayerStack.random(4).to(torch.float32)
    arguments: dict[str, Any] = {"layers": problem.prepared(), "keys": problem.keys, "values": problem.values}
    with pytest.raises((TypeError, ValueError), match=message):
        reasoning_rollout(problem.hidden, **{"steps": 1, **arguments, **options})
    with pytest.raises(TypeError, match="norm_eps must be a number"):
        prepare_layers(problem.layers, heads=2, input_norm=problem.input_norm, norm_eps="0")  # type: ignore[arg-type]

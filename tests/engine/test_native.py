"""The native rollout of an engine: equal to the model's modules, used where it may be, decided when it is made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import batch_of
from torch import Tensor, nn

import rearec.engine.native
from rearec.data.batch import Batch
from rearec.engine import Engine
from rearec.models import ReaRecConfig
from rearec.models.config import METHODS
from rearec.models.sasrec import SASRec
from rearec.reasoning import ReaRec, Rollout
from rearec_kernels import available_backends, reasoning_rollout, use_backend

pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install"),
]
SIZES = {"dim": 16, "heads": 2, "ffn": 12}


def model_of(method: str = "prl", steps: int = 2, cls: type[ReaRec] = ReaRec, **settings: Any) -> ReaRec:
    """In evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    model = cls(ReaRecConfig(17, method=method, steps=steps, max_len=20, **{**SIZES, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=model.config.dim**-0.5)
    return model


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The steps of every native call."""
    steps: list[int] = []

    def counted(*args: Any, **options: Any) -> Tensor:
        steps.append(options["steps"])
        return reasoning_rollout(*args, **options)

    monkeypatch.setattr(rearec.engine.native, "reasoning_rollout", counted)
    yield steps


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_equals_the_modules(method: str, steps: int, layers: int, calls: list[int]) -> None:
    model = model_of(method, steps, layers=layers)
    engine = Engine(model)
    for batch in (batch_of([3, 20, 1, 7], rows_per_window=None), batch_of([9])):
        torch.testing.assert_close(engine(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)
    assert calls == [model.config.steps] * 2 * (model.config.steps > 0)


@pytest.mark.parametrize(
    "sizes",
    [{"dim": 48, "ffn": 100, "heads": 3}, {"dim": 256, "ffn": 300}, {"dim": 64, "ffn": 128}, {"dim": 7, "heads": 1}],
)
@pytest.mark.parametrize("windows", [1, 60])
def test_it_equals_the_modules_in_other_sizes(sizes: dict[str, int], windows: int, calls: list[int]) -> None:
    model = model_of(steps=3, **sizes)
    engine = Engine(model)
    lengths = np.random.default_rng(0).integers(1, 21, windows).tolist()
    batch = batch_of(lengths, rows_per_window=None)
    torch.testing.assert_close(engine(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(engine(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)
    assert calls == [3, 3]


def test_single_rows_of_different_requests_are_told_apart(calls: list[int]) -> None:
    engine, model = Engine(model_of()), model_of()
    batches = [batch_of([length], seed) for length in (4, 9, 4, 20, 9) for seed in (1, 2)]
    for batch in batches * 2:
        torch.testing.assert_close(engine(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)
    assert len(calls) == 20


def train_a_step(model: ReaRec) -> None:
    model.train()
    with torch.enable_grad():
        model(batch_of([3, 5])).states.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    model.eval()


def train_as_lightning_does(model: ReaRec) -> None:
    """Modes are set without calling train(), and the optimiser is fused."""
    for module in model.modules():
        module.training = True
    with torch.enable_grad():
        model(batch_of([3, 5])).states.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()
    for module in model.modules():
        module.training = False


def load(model: ReaRec) -> None:
    model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()})


def assign(model: ReaRec) -> None:
    model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()}, assign=True)


def write_behind_the_back(model: ReaRec) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)


def convert_there_and_back(model: ReaRec) -> None:
    model.bfloat16().float()
    for parameter in model.parameters():
        parameter.mul_(0.5)


def replace_a_layer(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].inner = nn.Linear(16, 12).eval()


def replace_the_positions(model: ReaRec) -> None:
    model.reasoning_position_embedding = nn.Embedding(2, 16).eval()


@pytest.mark.parametrize(
    "change",
    [
        train_a_step,
        train_as_lightning_does,
        load,
        assign,
        write_behind_the_back,
        convert_there_and_back,
        replace_a_layer,
        replace_the_positions,
    ],
)
def test_refresh_takes_every_change_of_the_model(change: Callable[[ReaRec], None], calls: list[int]) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    engine = Engine(model)
    before = engine(batch).states
    change(model)
    engine.refresh()
    calls.clear()
    states = engine(batch).states
    assert calls == [2]
    assert not torch.allclose(states, before)
    torch.testing.assert_close(states, model(batch).states, rtol=1e-5, atol=1e-5)


def test_the_model_itself_is_its_modules(calls: list[int]) -> None:
    """So it needs no refresh, compiled or not."""
    model, batch = model_of(), batch_of([3, 20, 1])
    engine, compiled = Engine(model), torch.compile(model, backend="eager")
    for _ in range(2):
        states = model(batch).states
        assert not calls
        torch.testing.assert_close(compiled(batch).states, states, rtol=1e-6, atol=1e-6)
        engine.refresh()
        torch.testing.assert_close(engine(batch).states, states, rtol=1e-5, atol=1e-5)
        calls.clear()
        write_behind_the_back(model)
        assert not torch.allclose(model(batch).states, states)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda engine: pickle.loads(pickle.dumps(engine))])
def test_a_copy_takes_a_view_of_its_own(duplicate: Callable[[Engine], Engine], calls: list[int]) -> None:
    engine, batch = Engine(model_of()), batch_of([3, 20, 1])
    states = engine(batch).states
    twin = duplicate(engine)
    assert torch.equal(twin(batch).states, states)
    for parameter in twin.model.parameters():
        parameter.mul_(0.5)
    twin.refresh()
    assert torch.equal(engine(batch).states, states)
    torch.testing.assert_close(twin(batch).states, twin.model(batch).states, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(twin(batch).states, states)
    assert calls == [2] * 5


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def subclass(model: ReaRec) -> None:
    layer = model.backbone.encoder.layers[1]
    twin = Doubled(16, 16).eval()
    twin.load_state_dict(layer.value.state_dict())
    layer.value = twin


def hook(model: ReaRec) -> None:
    model.backbone.encoder.layers[1].outer.register_forward_hook(lambda module, inputs, output: 2 * output)


def hook_on_inputs(model: ReaRec) -> None:
    model.backbone.encoder.layers[1].value.register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))


def parametrize(model: ReaRec) -> None:
    nn.utils.parametrizations.weight_norm(model.backbone.encoder.layers[0].query)


def other_eps(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].attention_norm.eps = 0.1


def no_bias(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].output = nn.Linear(16, 16, bias=False).eval()


def own_step(model: ReaRec) -> None:
    model.backbone.step = lambda token, caches: token + 1


def hook_on_the_model(model: ReaRec) -> None:
    model.register_forward_hook(lambda module, inputs, rollout: Rollout(rollout.states + 1, rollout.weight))


@pytest.mark.parametrize(
    "change", [subclass, hook, hook_on_inputs, hook_on_the_model, own_step, parametrize, other_eps, no_bias]
)
def test_it_stands_aside_where_a_module_computes_something_else(
    change: Callable[[ReaRec], None], calls: list[int]
) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    engine = Engine(model)
    before = engine(batch).states
    change(model)
    engine.refresh()
    calls.clear()
    states = engine(batch).states
    assert not calls
    assert torch.equal(states, model(batch).states)
    assert (states - before).abs().max() > 1e-4 or change is parametrize


class Halved(ReaRec):
    def forward(self, batch: Batch, *, steps: int | None = None) -> Rollout:  # type: ignore[override]
        rollout = super().forward(batch, steps=steps)
        return Rollout(rollout.states / 2, rollout.weight)


class OwnReasoning(SASRec):
    def reason(self, *arguments: Any) -> Callable[[Tensor], Tensor]:
        reason = super().reason(*arguments)
        return lambda token: 2 * reason(token)


def test_it_stands_aside_for_subclasses(calls: list[int]) -> None:
    plain, batch = model_of(), batch_of([3, 20, 1])
    halved = model_of(cls=Halved)
    assert torch.equal(Engine(halved)(batch).states, plain(batch).states / 2)
    before = plain(batch).states
    plain.backbone.__class__ = OwnReasoning
    states = Engine(plain)(batch).states
    assert torch.equal(states, plain(batch).states)
    torch.testing.assert_close(states[:, 1], 2 * before[:, 1])
    assert not calls


def test_it_stands_aside_for_autocast_and_other_backends(calls: list[int]) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    engine = Engine(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(engine(batch).states, model(batch).states)
    with use_backend("reference"):
        Engine(model)(batch)
    assert not calls
    with use_backend("reference"):  # which an engine made before it obeys too
        torch.testing.assert_close(engine(batch).states, model(batch).states, rtol=1e-5, atol=1e-5)


def test_weights_made_in_inference_mode_are_packed_too(calls: list[int]) -> None:
    with torch.inference_mode():
        model, batch = model_of(), batch_of([3, 20, 1])
        engine = Engine(model)
        before = engine(batch).states
        for parameter in model.parameters():
            parameter.mul_(0.5)
        engine.refresh()
        states = engine(batch).states
        assert not torch.allclose(states, before)
        torch.testing.assert_close(states, model(batch).states, rtol=1e-5, atol=1e-5)
    assert calls == [2, 2]

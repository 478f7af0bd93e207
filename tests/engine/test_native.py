"""The native rollout inside the model: equal to its modules, used where it may be, and never stale."""

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
from rearec.models import ReaRecConfig
from rearec.models.config import METHODS
from rearec.reasoning import ReaRec
from rearec_kernels import available_backends, reasoning_rollout, use_backend

pytestmark = [
    pytest.mark.usefixtures("no_gradients"),
    pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install"),
]
SIZES = {"dim": 16, "heads": 2, "ffn": 12}


def model_of(method: str = "prl", steps: int = 2, **settings: Any) -> ReaRec:
    """In evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    model = ReaRec(ReaRecConfig(17, method=method, steps=steps, max_len=20, **{**SIZES, **settings})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=model.config.dim**-0.5)
    return model


def of_modules(model: ReaRec, batch: Batch) -> Tensor:
    """The states step by step and module by module, as with gradients."""
    with torch.enable_grad():
        return model(batch).states.detach()


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
    for batch in (batch_of([3, 20, 1, 7], rows_per_window=None), batch_of([9])):
        torch.testing.assert_close(model(batch).states, of_modules(model, batch), rtol=1e-5, atol=1e-5)
    assert calls == [model.config.steps] * 2 * (model.config.steps > 0)


@pytest.mark.parametrize(
    "sizes",
    [{"dim": 48, "ffn": 100, "heads": 3}, {"dim": 256, "ffn": 300}, {"dim": 64, "ffn": 128}, {"dim": 7, "heads": 1}],
)
@pytest.mark.parametrize("windows", [1, 60])
def test_it_equals_the_modules_in_other_sizes(sizes: dict[str, int], windows: int, calls: list[int]) -> None:
    model = model_of(steps=3, **sizes)
    lengths = np.random.default_rng(0).integers(1, 21, windows).tolist()
    batch = batch_of(lengths, rows_per_window=None)
    torch.testing.assert_close(model(batch).states, of_modules(model, batch), rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch).states, of_modules(model, batch), rtol=1e-5, atol=1e-5)
    assert calls == [3, 3]


def train_a_step(model: ReaRec) -> None:
    model.train()
    with torch.enable_grad():
        model(batch_of([3, 5])).states.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    model.eval()


def step_without_train(model: ReaRec) -> None:
    with torch.enable_grad():
        model(batch_of([3, 5])).states.sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def train_as_lightning_does(model: ReaRec) -> None:
    """Modes are set without calling train(), and a fused optimiser does not count its writes."""
    for module in model.modules():
        module.training = True
    with torch.enable_grad():
        model(batch_of([3, 5])).states.sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()
    for module in model.modules():
        module.training = False


def step_after_an_evaluation(model: ReaRec) -> None:
    with torch.enable_grad():
        loss = model(batch_of([3, 5])).states.square().sum()
    model(batch_of([3, 5]))
    with torch.enable_grad():
        loss.backward()
    torch.optim.Adam(model.parameters(), lr=0.1, fused=True).step()


def load(model: ReaRec) -> None:
    model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()})


def assign(model: ReaRec) -> None:
    model.load_state_dict({name: value.flip(0) for name, value in model.state_dict().items()}, assign=True)


def write_behind_the_back_between_epochs(model: ReaRec) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(0.5)
    model.train().eval()


def replace_a_layer(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].inner = nn.Linear(16, 12).eval()


def replace_the_positions(model: ReaRec) -> None:
    model.reasoning_position_embedding = nn.Embedding(2, 16).eval()


def go_to_double_and_back(model: ReaRec) -> None:
    model.double()
    model(batch_of([3, 5]))
    for parameter in model.parameters():
        parameter.mul_(0.5)
    model.float()


@pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")
@pytest.mark.parametrize(
    "change",
    [
        train_a_step,
        train_as_lightning_does,
        step_without_train,
        step_after_an_evaluation,
        load,
        assign,
        write_behind_the_back_between_epochs,
        replace_a_layer,
        replace_the_positions,
        go_to_double_and_back,
    ],
)
def test_changes_of_the_model_are_noticed(change: Callable[[ReaRec], None], calls: list[int]) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    before = model(batch).states
    change(model)
    calls.clear()
    states = model(batch).states
    assert calls == [2]
    assert not torch.allclose(states, before)
    torch.testing.assert_close(states, of_modules(model, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_has_weights_of_its_own(duplicate: Callable[[ReaRec], ReaRec], calls: list[int]) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    states = model(batch).states
    twin = duplicate(model)
    assert torch.equal(twin(batch).states, states)
    for parameter in twin.parameters():
        parameter.mul_(0.5)
    assert torch.equal(model(batch).states, states)
    torch.testing.assert_close(twin(batch).states, of_modules(twin, batch), rtol=1e-5, atol=1e-5)
    assert calls == [2] * 4


class Doubled(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def subclass(model: ReaRec) -> None:
    layer = model.backbone.encoder.layers[1]
    twin = Doubled(16, 16).eval()
    twin.load_state_dict(layer.value.state_dict())
    layer.value = twin


def hook(model: ReaRec) -> None:
    model.backbone.encoder.layers[1].outer.register_forward_hook(lambda module, inputs, output: output + 1)


def hook_on_inputs(model: ReaRec) -> None:
    model.backbone.input_norm.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))


def parametrize(model: ReaRec) -> None:
    nn.utils.parametrizations.weight_norm(model.backbone.encoder.layers[0].query)


def other_eps(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].attention_norm.eps = 0.1


def no_bias(model: ReaRec) -> None:
    model.backbone.encoder.layers[0].output = nn.Linear(16, 16, bias=False).eval()


@pytest.mark.parametrize("change", [subclass, hook, hook_on_inputs, parametrize, other_eps, no_bias])
def test_it_stands_aside_where_a_module_computes_something_else(
    change: Callable[[ReaRec], None], calls: list[int]
) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    model(batch)
    change(model)
    calls.clear()
    states = model(batch).states
    assert not calls
    torch.testing.assert_close(states, of_modules(model, batch), rtol=1e-6, atol=1e-6)


def test_it_stands_aside_with_dropout(calls: list[int]) -> None:
    model, batch = model_of(dropout=0.5), batch_of([3, 20, 1])
    model(batch)
    model.backbone.encoder.layers[1].train()  # one layer alone
    assert not torch.equal(model(batch).states, model(batch).states)
    model.train()
    model(batch)
    assert calls == [2]


def test_it_stands_aside_for_gradients_autocast_noise_and_other_backends(calls: list[int]) -> None:
    model, batch = model_of(), batch_of([3, 20, 1])
    with torch.enable_grad():
        assert model(batch).states.requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        model(batch)
    model(batch, return_noised=True)
    with use_backend("reference"):
        model(batch)
    assert not calls


def test_weights_made_in_inference_mode_are_not_packed(calls: list[int]) -> None:
    """Nothing tells when they are written."""
    with torch.inference_mode():
        model, batch = model_of(), batch_of([3, 20, 1])
        before = model(batch).states
        for parameter in model.parameters():
            parameter.mul_(0.5)
        assert not torch.allclose(model(batch).states, before)
    assert not calls

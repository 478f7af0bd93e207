"""A history whose items are encoded once each has the states of one that is encoded as a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import rearec
from rearec.data import collate_histories
from rearec.engine import Engine
from rearec.models import ReaRecConfig

ITEMS, MAX_LEN = 40, 12


def engine_of(precision: Any = "fp32", **settings: Any) -> Engine:
    torch.manual_seed(3)
    values = {"dim": 16, "heads": 2, "layers": 2, "ffn": 24, "max_len": MAX_LEN, "steps": 2, **settings}
    config = ReaRecConfig(num_items=ITEMS, **values)
    features = torch.randn(ITEMS, config.feature_dim) if config.reads_features else None
    model = rearec.ReaRec(config, features)
    with torch.no_grad():  # larger than at the start of a training, so that all parts of the model count
        for parameter in model.parameters():
            parameter.mul_(4).add_(0.05 * torch.randn_like(parameter))
    return Engine(model, precision=precision)


def whole(engine: Engine, items: list[int], steps: int | None = None) -> torch.Tensor:
    return engine(collate_histories([items], MAX_LEN), steps).states


MODELS: dict[str, dict[str, Any]] = {
    "prl": {"method": "prl"},
    "erl": {"method": "erl"},
    "base": {"method": "base", "steps": 0},
    "one layer": {"method": "prl", "layers": 1},
    "unisrec": {"backbone": "unisrec", "method": "prl", "feature_dim": 8},
    "bert4rec": {"backbone": "bert4rec", "method": "prl"},
    "cloze": {"backbone": "bert4rec", "method": "base", "steps": 0, "training_task": "cloze"},
}


@pytest.mark.parametrize("at_a_time", [1, 3, 7])
@pytest.mark.parametrize("name", MODELS)
def test_states_are_those_of_the_whole_history(name: str, at_a_time: int) -> None:
    engine = engine_of(**MODELS[name])
    items = np.random.default_rng(at_a_time).integers(0, ITEMS, 2 * MAX_LEN).tolist()
    history = engine.growing()
    for begin in range(0, len(items), at_a_time):
        history.extend(items[begin : begin + at_a_time])
        shown = items[: begin + at_a_time]
        assert history.items == shown
        for steps in {0, engine.model.config.steps}:
            torch.testing.assert_close(history.states(steps), whole(engine, shown, steps), rtol=1e-5, atol=1e-5)


def test_an_item_is_encoded_once_until_the_window_is_full() -> None:
    engine = engine_of(method="prl")
    calls: list[tuple[int, ...]] = []
    engine.model.backbone.encoder.layers[0].query.register_forward_hook(
        lambda module, inputs, output: calls.append(tuple(inputs[0].shape))
    )
    engine.refresh()
    history = engine.growing()
    history.extend([1, 2, 3, 4, 5])
    assert calls == [(1, 5, 16)]
    for item in range(MAX_LEN - 5):
        history.extend([item])
    assert calls[1:] == [(1, 16)] * (MAX_LEN - 5)
    assert (history.encoded, history.encoded_anew) == (MAX_LEN, 0)
    history.extend([7])
    assert calls[-1] == (1, MAX_LEN, 16)
    assert (history.encoded, history.encoded_anew) == (MAX_LEN + 1, 1)


def test_its_memory_is_told_and_bounded() -> None:
    engine = engine_of(method="prl")
    history = engine.growing()
    assert history.nbytes == 0
    history.extend([1])
    # of two layers keys and values, and the last state
    assert history.nbytes == 4 * (2 * 2 * MAX_LEN * 16 + 16)
    before = history.nbytes
    history.extend(list(range(30)))
    assert history.nbytes == before


def test_two_histories_do_not_mix() -> None:
    engine = engine_of(method="prl")
    one, other = engine.growing(), engine.growing()
    one.extend([1, 2])
    other.extend([3])
    one.extend([4])
    other.extend([5])
    torch.testing.assert_close(one.states(), whole(engine, [1, 2, 4]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(other.states(), whole(engine, [3, 5]), rtol=1e-5, atol=1e-5)


def test_a_model_in_training_mode_is_put_back_into_it() -> None:
    engine = engine_of(method="prl")
    engine.model.train()
    history = engine.growing()
    history.extend([1, 2])
    history.extend([3])
    assert engine.model.training
    torch.testing.assert_close(history.states(), whole(engine, [1, 2, 3]), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:precision")
def test_products_of_bfloat16() -> None:
    engine = engine_of("bf16", method="prl")
    history = engine.growing()
    history.extend([1, 2, 3])
    history.extend([4])
    states = history.states()
    assert states.dtype == torch.float32
    torch.testing.assert_close(states, whole(engine, [1, 2, 3, 4]), rtol=0.1, atol=0.1)


def test_what_is_wrong_is_said() -> None:
    history = engine_of(method="prl").growing()
    with pytest.raises(ValueError, match="the history has no items yet"):
        history.states()
    with pytest.raises(ValueError, match=r"items: got 40, expected numbers in \[0, 40\)"):
        history.extend([3, ITEMS])
    assert history.items == []
    history.extend([3])
    with pytest.raises(ValueError, match=r"steps: got 3, expected 0\.\.2"):
        history.states(3)

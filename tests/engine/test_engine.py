"""The contract of an engine: frozen until refresh, without dropout or gradients, shared by threads, copied whole."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import HISTORIES, MAX_LEN, NUM_ITEMS, batch_of, dataset_of, model_of, other_weights, recommender_of
from torch import Tensor

from rearec.analysis.similarity import similarity
from rearec.data import load_dataset
from rearec.engine import Engine
from rearec.engine.evaluation_mode import evaluation_mode
from rearec.evaluation import BatchRanker, evaluate, rank_rows
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.training import TrainingOptions, train
from rearec_kernels import catalog_topk

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")


def feature_model(backbone: str = "morec") -> ReaRec:
    torch.manual_seed(0)
    config = ReaRecConfig(NUM_ITEMS, backbone, "prl", dim=8, ffn=12, max_len=MAX_LEN, feature_dim=6)
    return ReaRec(config, torch.randn(NUM_ITEMS, 6)).eval()


def scaled(model: ReaRec) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(-0.7)


def loaded(model: ReaRec) -> None:
    model.load_state_dict(other_weights(model))


def stepped(model: ReaRec) -> None:
    model(batch_of([3, 5])).states.square().sum().backward()
    torch.optim.Adam(model.parameters(), lr=0.1, fused=model.device.type == "cpu").step()


CHANGES = pytest.mark.parametrize("change", [scaled, loaded, stepped])
MODELS = pytest.mark.parametrize("make", [model_of, feature_model, lambda: feature_model("unisrec")])


@MODELS
@CHANGES
def test_refresh_takes_weights_table_and_catalogue(
    make: Callable[[], ReaRec], change: Callable[[ReaRec], None]
) -> None:
    model = make().float()
    engine, batch = Engine(model), batch_of([3, 9, 1])
    before = engine(batch)
    change(model)
    engine.refresh()
    rollout = engine(batch)
    with torch.no_grad():
        expected = model(batch)
    assert torch.equal(rollout.weight, expected.weight)
    torch.testing.assert_close(rollout.states, expected.states, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(rollout.states, before.states)
    hidden = model.final_state(rollout.states)
    best = catalog_topk(hidden, engine.catalog, 3)
    assert all(map(torch.equal, best, catalog_topk(hidden, expected.weight.detach(), 3)))


@MODELS
@CHANGES
def test_nothing_that_makes_an_engine_for_one_call_is_ever_stale(
    make: Callable[[], ReaRec], change: Callable[[ReaRec], None]
) -> None:
    model, dataset = make().float(), dataset_of(40)

    def results() -> list[Any]:
        ranks = rank_rows(model, dataset, per_step=True).by_step
        metrics = evaluate(model, dataset, floors=False)
        return [np.asarray(ranks), similarity(model, dataset), np.asarray([metrics["mrr"], metrics["ndcg@10"]])]

    before = results()
    change(model)
    after, twin = results(), copy.deepcopy(model)
    model = twin
    for now, then, fresh in zip(after, before, results(), strict=True):
        assert not np.array_equal(now, then)
        assert np.array_equal(now, fresh)


def test_validation_sees_the_weights_of_its_epoch(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each epoch's ranks are those of a copy of the model as it is then."""
    dataset = load_dataset(prepared)
    ranks: list[Tensor] = []
    final = BatchRanker.final

    def compared(ranker: BatchRanker, batch: Any) -> Any:
        found = final(ranker, batch)
        fresh = BatchRanker(copy.deepcopy(ranker.engine.model), seen=ranker.seen)
        assert np.array_equal(found, final(fresh, batch))
        ranks.append(torch.from_numpy(found))
        return found

    monkeypatch.setattr(BatchRanker, "final", compared)
    config = ReaRecConfig(dataset.num_items, method="prl", dim=8, ffn=8, layers=1, max_len=8)
    train(dataset, tmp_path / "run", config, TrainingOptions(epochs=3, batch_rows=4096, lr=1e-2))
    batches = len(ranks) // 3
    first, *later = (torch.cat(ranks[begin : begin + batches]) for begin in (0, batches, 2 * batches))
    assert all(not torch.equal(first, other) for other in later)


def test_dropout_is_off_and_the_mode_of_every_module_is_put_back() -> None:
    model, batch = model_of(), batch_of([4, 5])
    engine = Engine(model)
    expected = engine(batch).states
    model.train()
    model.backbone.encoder.layers[0].eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(engine(batch).states, expected)
    engine.refresh()
    assert torch.equal(engine(batch).states, expected) and not expected.requires_grad
    assert [module.training for module in model.modules()] == modes
    model.eval()
    model.backbone.encoder.layers[1].train()  # one layer alone
    assert torch.equal(engine(batch).states, expected)
    assert [module for module in model.modules() if module.training] == [*model.backbone.encoder.layers[1].modules()]


def test_the_mode_is_put_back_by_the_last_one_out_and_after_an_error() -> None:
    model = model_of().train()
    with evaluation_mode(model):
        with pytest.raises(KeyError), evaluation_mode(model):
            raise KeyError
        assert not model.training
    assert model.training


@pytest.mark.parametrize("training", [False, True])
def test_threads_of_several_engines_get_the_answers_of_one(training: bool) -> None:
    model = model_of(dtype=torch.float32)
    batches = [batch_of([length, 3], seed) for seed, length in enumerate((4, 9, 20, 1, 7, 7))]
    expected = [Engine(model)(batch).states for batch in batches]
    model.train(training)
    engines = [Engine(model), Engine(model)]
    ready = threading.Barrier(6)

    def answers(number: int) -> list[Tensor]:
        ready.wait()
        return [engines[number % 2](batch).states for batch in batches for _ in range(3)]

    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(answers, range(6)):
            for index, states in enumerate(found):
                assert torch.equal(states, expected[index // 3])
    assert model.training is training


@pytest.mark.parametrize("move", [lambda model: model.double(), lambda model: model.to("meta")])
def test_a_model_that_was_moved_is_refused_until_refresh(move: Callable[[ReaRec], Any]) -> None:
    model = model_of(dtype=torch.float32)
    engine, recommender = Engine(model), recommender_of(model)
    move(model)
    message = r"model: is .*, but was torch\.float32 on cpu when the engine was made; call refresh\(\)"
    with pytest.raises(ValueError, match=message):
        engine(batch_of([3]))
    with pytest.raises(ValueError, match=message):
        recommender.recommend(HISTORIES)
    if model.device.type == "cpu":
        engine.refresh()
        assert engine(batch_of([3])).states.dtype == torch.float64


@MODELS
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_answer_alike_and_have_models_of_their_own(
    make: Callable[[], ReaRec], duplicate: Callable[[Any], Any]
) -> None:
    engine, recommender = Engine(make()), recommender_of(make())
    batch, answers = batch_of([3, 9]), recommender.recommend(HISTORIES)
    twin, other = duplicate(engine), duplicate(recommender)
    assert twin.model is not engine.model and other.model is not recommender.model
    assert torch.equal(twin(batch).states, engine(batch).states)
    scaled(other.model)
    other.refresh()
    assert recommender.recommend(HISTORIES) == answers != other.recommend(HISTORIES)


@pytest.mark.parametrize("backbone", ["morec", "unisrec"])
def test_the_table_is_computed_once_for_an_engine(backbone: str) -> None:
    model, calls = feature_model(backbone), []
    model.backbone.adaptor.register_forward_hook(lambda *_: calls.append(1))
    engine = Engine(model)
    for _ in range(3):
        engine(batch_of([3, 9]))
    recommender = recommender_of(model)
    recommender.recommend(HISTORIES)
    recommender.recommend(HISTORIES)
    assert len(calls) == 2
    rank_rows(model, dataset_of(40), batch_rows=4)
    assert len(calls) == 3
    assert model.device.type == "cpu" and len(calls) == 3


def test_gradients_of_the_caller_are_none_of_the_engines_business() -> None:
    model, batch = model_of(), batch_of([3, 9])
    engine = Engine(model)
    assert not engine(batch).states.requires_grad
    model(batch).states.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_engine_goes_with_its_last_reference() -> None:
    """Its graphs and packed weights do not wait for the collector of cycles."""
    engine = Engine(model_of(), capture=lambda run: run)
    engine(batch_of([3]))
    gone = weakref.ref(engine._passes)
    gc.disable()
    try:
        del engine
        assert gone() is None
    finally:
        gc.enable()


def test_a_model_says_where_it_is() -> None:
    model = model_of()
    assert model.device == torch.device("cpu")
    assert model.to("meta").device == torch.device("meta")

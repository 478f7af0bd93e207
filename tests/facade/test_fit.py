"""`rearec.fit`: from a dataset to a model that answers, knows its users and its training."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback

import rearec
from rearec import FittedModel, Recommender, UserError
from rearec.data import SequenceDataset, load_dataset
from rearec.models.sasrec import SASRec
from rearec.run_folder import RunFolder
from rearec.training.presets import best_settings

TINY: dict[str, Any] = {"epochs": 2, "dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "progress": False, "logger": "none"}


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    titles = [None if number % 5 == 0 else f"Title {number}" for number in range(40)]
    return replace(load_dataset(prepared), item_titles=titles)


@pytest.fixture(scope="module")
def model(dataset: SequenceDataset) -> FittedModel:
    return rearec.fit(dataset, **TINY)


def test_a_fit_is_the_preset_s_training_with_what_was_given(model: FittedModel) -> None:
    assert (model.config.method, model.config.backbone, model.config.dim) == ("prl", "sasrec", 8)
    usual = best_settings("sasrec", "prl")
    assert (model.config.steps, model.config.dropout) == (usual["steps"], usual["dropout"])
    assert model.result["epochs"] == len(model.history) == 2
    assert [row["epoch"] for row in model.history] == [1, 2]
    assert all(isinstance(row["train_loss"], float) and isinstance(row["step"], int) for row in model.history)
    preset = RunFolder(model.run).options()["preset"]
    assert preset["name"] == "best" and preset["differing"]["dim"] == [8, 64]


def test_a_fit_without_a_folder_leaves_nothing_when_the_model_is_gone(dataset: SequenceDataset) -> None:
    model = rearec.fit(dataset, **TINY | {"epochs": 1})
    twin = copy.deepcopy(model)
    run, expected = model.run, model.recommend([["item-001"]])
    del model
    gc.collect()
    assert run.is_dir() and twin.recommend([["item-001"]]) == expected and twin.result["epochs"] == 1
    del twin
    gc.collect()
    assert not run.exists()


def test_a_pickled_model_answers_alike(model: FittedModel) -> None:
    other = pickle.loads(pickle.dumps(model))
    assert other.recommend(users="all") == model.recommend(users="all")
    del other
    gc.collect()
    assert model.run.is_dir()


def test_what_fails_leaves_no_folder(dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing(Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        rearec.fit(dataset, callbacks=[Failing()], **TINY)
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_model_wherever_it_is_written(dataset: SequenceDataset, tmp_path: Path) -> None:
    models = [rearec.fit(dataset, out=out, seed=3, **TINY) for out in (None, tmp_path / "run")]
    assert models[0].recommend(users="all", k=3) == models[1].recommend(users="all", k=3)
    assert models[1].run == tmp_path / "run"
    with pytest.raises(UserError, match="force=True replaces it"):
        rearec.fit(dataset, out=tmp_path / "run", **TINY)
    rearec.fit(dataset, out=tmp_path / "run", force=True, **TINY)


def test_a_training_is_resumed_and_extended(dataset: SequenceDataset, tmp_path: Path) -> None:
    whole = rearec.fit(dataset, out=tmp_path / "whole", **TINY | {"epochs": 3})
    rearec.fit(dataset, out=tmp_path / "run", **TINY)
    options = {"progress": False, "logger": "none", "resume": True}
    extended = rearec.fit(dataset, out=tmp_path / "run", epochs=3, **options)
    assert extended.result["epochs"] == 3 and extended.config == whole.config
    assert extended.recommend(users="all") == whole.recommend(users="all")
    with pytest.raises(UserError, match="method: the run to resume was started with prl, not base"):
        rearec.fit(dataset, out=tmp_path / "run", method="base", **options)
    with pytest.raises(UserError, match="dim: the run to resume was started with 8, not 16"):
        rearec.fit(dataset, out=tmp_path / "run", dim=16, **options)
    with pytest.raises(ValueError, match="dimension: no setting"):
        rearec.fit(dataset, out=tmp_path / "run", dimension=16, **options)
    with pytest.raises(ValueError, match="nothing to resume without out="):
        rearec.fit(dataset, **options)


def test_a_fit_may_begin_with_another_model(dataset: SequenceDataset, model: FittedModel) -> None:
    cold = rearec.fit(dataset, lr=1e-9, **TINY | {"epochs": 1})
    for init in (model, model.run, model.model, Recommender(model.model, model.catalog)):
        warm = rearec.fit(dataset, init=init, lr=1e-9, **TINY | {"epochs": 1})
        torch.testing.assert_close(warm.model.weight, model.model.weight, atol=1e-5, rtol=0)
        assert not torch.allclose(cold.model.weight, warm.model.weight, atol=1e-5)


def test_an_encoder_of_one_s_own(dataset: SequenceDataset) -> None:
    config = replace(rearec.ReaRecConfig(40), dim=8, ffn=8, layers=1, max_len=8)
    model = rearec.fit(dataset, backbone=lambda: SASRec(config), **TINY)
    assert model.config.backbone == "own" and len(model.recommend([["item-001"]])[0].items) == 10


def test_the_chosen_model_is_trained_anew_on_every_row(dataset: SequenceDataset, model: FittedModel) -> None:
    final = rearec.refit(model, progress=False, logger="none")
    assert final.result["epochs"] == model.result["best_epoch"] and final.result["test"] is None
    assert final.config == model.config and not torch.equal(final.model.weight, model.model.weight)
    assert len(final.recommend(users="all", k=3)) == 150 and final.catalog.titles == dataset.item_titles
    assert "trained on every interaction" in repr(final)
    assert "trained on every interaction" in final._repr_html_()
    with pytest.raises(UserError, match="a refit, trained on every interaction"):
        final.evaluate()
    with pytest.raises(UserError, match="a refit, trained on every interaction"):
        rearec.refit(final)


def test_fitted_models_are_compared(dataset: SequenceDataset, model: FittedModel) -> None:
    base = rearec.fit(dataset, method="base", **TINY)
    compared = rearec.compare({"base": base, "prl": model}, metrics=["ndcg@20"], users_by=None, items_by=None)
    value = {line["run"]: line["value"] for line in compared.table}
    assert value["prl"] == pytest.approx(model.evaluate()["ndcg@20"], rel=1e-5)
    assert value["base"] == pytest.approx(base.result["test"]["ndcg@20"], rel=1e-5)


def test_a_bar_shows_the_epochs_or_nothing_is_shown(
    dataset: SequenceDataset, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rearec.facade.progress._is_watched", lambda: True)
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of this machine
        rearec.fit(dataset, **TINY)
        assert capfd.readouterr().out == ""
        model = rearec.fit(dataset, **TINY | {"progress": True})
    shown = capfd.readouterr()
    best = model.history[-1]["valid_ndcg@20"]
    assert shown.out == "" and "2/2" in shown.err and f"valid NDCG@20={best:.4f}" in shown.err


@pytest.mark.parametrize(
    ("data", "message"), [(pl.DataFrame({"user": [1]}), "from_frame"), ([["a", "b"]], "from_frame"), (None, "NoneType")]
)
def test_what_is_no_dataset_is_told_how_to_become_one(data: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        rearec.fit(data)


def test_a_fit_says_what_differs_and_what_could_be_better(
    dataset: SequenceDataset, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    model = rearec.fit(dataset, method="base", steps=2, **TINY | {"progress": True})
    shown = capfd.readouterr()
    lines = shown.err.splitlines()
    assert shown.out == "" and model.config.steps == 0
    assert lines[:2] == [
        "steps is ignored: base does not reason",
        "preset best, with dim 8 (64), ffn 8 (128), layers 1 (2), max_len 8 (50), epochs 2 (30)",
    ]
    assert lines[2].startswith("seen items ") and lines[3].startswith("the graph prior: NDCG@20 on validation ")
    assert lines[4:] == model.advice
    plain = rearec.fit(dataset, method="base", **TINY | {"prior": "none"})
    assert any(line.startswith("below markov") and "more epochs, another lr" in line for line in plain.advice)
    warm = rearec.fit(dataset, method="base", init=model, **TINY | {"progress": True})
    assert f"begins with the weights of {model.run}, items: 40 known, 0 new" in capfd.readouterr().err
    assert not [line for line in [*model.advice, *plain.advice, *warm.advice] if "--" in line]
    assert rearec.refit(model, progress=False, logger="none").advice == []


def test_what_could_be_better_is_said_in_the_words_of_python(dataset: SequenceDataset) -> None:
    rising = [{"valid_ndcg@20": value} for value in (0.1, 0.2)]
    model = rearec.fit(dataset, **TINY)
    result = model.result | {"best_epoch": 2, "stopped_early": False, "test": None}
    model._record = (result, rising, model._record[2])
    assert model.advice == [
        "validation NDCG@20 still rose in the last epoch (.1000 to .2000): fit with out=, resume=True, epochs=4 goes on"
    ]


def test_numbers_of_numpy_are_numbers(dataset: SequenceDataset) -> None:
    model = rearec.fit(dataset, **TINY | {"epochs": np.int64(1), "dim": np.int32(8), "lr": np.float32(0.5)})
    assert RunFolder(model.run).options()["training"]["lr"] == 0.5 and model.result["epochs"] == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"callbacks": [3]}, "callbacks: got"),
        ({"callbacks": Callback()}, "callbacks: got"),
        ({"objective": "prl"}, "objective: got a str"),
        ({"backbone": 3}, "backbone: got a int"),
        ({"init": 3}, "init: got a int"),
        ({"out": 3}, "out: got a int"),
        ({"logger": 3}, "logger: got a int"),
    ],
)
def test_what_is_handed_over_is_looked_at(dataset: SequenceDataset, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        rearec.fit(dataset, **TINY | wrong)


def test_what_cannot_be_is_refused(dataset: SequenceDataset, model: FittedModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="backbone: made a int"):
        rearec.fit(dataset, backbone=lambda: 3, **TINY)  # type: ignore[arg-type,return-value]
    other = replace(model.catalog, item_ids=model.catalog.item_ids[::-1])
    with pytest.raises(UserError, match="init: the items of the recommender are not the dataset's"):
        rearec.fit(dataset, init=Recommender(model.model, other), **TINY)
    rearec.fit(dataset, out=tmp_path / "run", **TINY)
    with pytest.raises(UserError, match="preset: the run to resume was started with best, not paper"):
        rearec.fit(dataset, out=tmp_path / "run", preset="paper", resume=True)
    with pytest.raises(UserError, match="cannot be written"):
        rearec.fit(dataset, out="/dev/null/run", **TINY)
    with pytest.raises(TypeError, match="model: got a int"):
        rearec.refit(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="a refit, trained on every interaction"):
        rearec.compare([model, rearec.refit(model, progress=False, logger="none")])


def test_wrong_settings_are_named(dataset: SequenceDataset) -> None:
    with pytest.raises(ValueError, match=r"epoch: .* did you mean epochs\?"):
        rearec.fit(dataset, epoch=3)
    with pytest.raises(ValueError, match="lr: got 0"):
        rearec.fit(dataset, lr=0)
    with pytest.raises(ValueError, match="preset: got 'fast'"):
        rearec.fit(dataset, preset="fast")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="method: got 'sasrec'"):
        rearec.fit(dataset, method="sasrec")
    with pytest.raises(UserError, match="device: got 'tpu', expected auto, cpu, cuda or cuda:N"):
        rearec.fit(dataset, device="tpu", **TINY)


def test_threads_get_the_answers_of_one(dataset: SequenceDataset, model: FittedModel) -> None:
    calls = [
        lambda: model.recommend(users="all", k=4),
        lambda: model.recommend(users=dataset.user_ids[5:40], allow=dataset.item_ids[3:20], exclude_seen=True),
        lambda: model.recommend([["item-001", "item-002"]], deny=["item-003"]),
        lambda: model.similar(dataset.item_ids[:9]),
        lambda: model.encode([["item-001"]]).tolist(),
        lambda: model.explain(["item-001", "item-004"]),
    ]
    expected = [call() for call in calls]
    fresh = FittedModel(model.run, data=dataset)
    model = fresh
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(call) for _ in range(6) for call in calls]
        assert [answer.result() for answer in answers] == expected * 6

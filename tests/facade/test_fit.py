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
    with pytest.raises(UserError, match="--force replaces it"):
        rearec.fit(dataset, out=tmp_path / "run", **TINY)
    rearec.fit(dataset, out=tmp_path / "run", force=True, **TINY)


def test_a_training_is_resumed_and_extended(dataset: SequenceDataset, tmp_path: Path) -> None:
    whole = rearec.fit(dataset, out=tmp_path / "whole", **TINY | {"epochs": 3})
    rearec.fit(dataset, out=tmp_path / "run", **TINY)
    options = {"progress": False, "logger": "none", "resume": True}
    extended = rearec.fit(dataset, out=tmp_path / "run", epochs=3, **options)
    assert extended.result["epochs"] == 3 and extended.config == whole.config
    assert extended.recommend(users="all") == whole.recommend(users="all")
    with pytest.raises(UserError, match="was started with method='prl', not 'base'"):
        rearec.fit(dataset, out=tmp_path / "run", method="base", **options)
    with pytest.raises(UserError, match="was started with model option dim = 8, not 16"):
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
    dataset: SequenceDataset, capfd: pytest.CaptureFixture[str]
) -> None:
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

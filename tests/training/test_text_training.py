"""Training the backbones that read features: what checkpoints hold, resuming, what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from rearec import ReaRec, Recommender, load_dataset
from rearec.data import SequenceDataset
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.models import ReaRecConfig
from rearec.models.config import TEXT_BACKBONES
from rearec.training import TrainingOptions, fitting_config, train

BACKBONES = pytest.mark.parametrize("backbone", TEXT_BACKBONES)
OPTIONS = TrainingOptions(epochs=2, batch_rows=256, lr=1e-2)


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    """The small data set with random features."""
    plain = load_dataset(prepared)
    features = np.random.default_rng(0).standard_normal((plain.num_items, 5)).astype(np.float32)
    return replace(plain, features=features)


def config_of(dataset: SequenceDataset, backbone: str, **settings: Any) -> ReaRecConfig:
    small = {"dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "dropout": 0.1, "experts": 2, "alpha": 1.5, "warmup": 1}
    return fitting_config(dataset, backbone=backbone, **small, **settings)


class _Stop(Exception):
    pass


@BACKBONES
def test_an_interrupted_training_resumes_to_the_same_model(
    backbone: str, dataset: SequenceDataset, tmp_path: Path
) -> None:
    config = config_of(dataset, backbone, transductive=backbone == "unisrec")
    whole = train(dataset, tmp_path / "whole", config, OPTIONS)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise _Stop

    with pytest.raises(_Stop):
        train(dataset, tmp_path / "broken", config, OPTIONS, on_epoch=stop)
    others = replace(dataset, features=dataset.features + 1)
    with pytest.raises(UserError, match="was started with other features of the items; resume with the same"):
        train(others, tmp_path / "broken", config, OPTIONS, resume=True)
    assert train(dataset, tmp_path / "broken", config, OPTIONS, resume=True) == whole
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "broken")]
    assert weights[0] == weights[1]

    for name in ("best", "last"):
        checkpoint = torch.load(tmp_path / "whole" / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert not [key for key in checkpoint["state_dict"] if "features" in key]
        assert [key for key in checkpoint["state_dict"] if "adaptor" in key]
    saved = safetensors.torch.load_file(tmp_path / "whole" / "model.safetensors")
    np.testing.assert_array_equal(saved["backbone.item_features"].numpy(), dataset.features)

    model = ReaRec.from_pretrained(tmp_path / "whole")
    assert evaluate(model, dataset, "test") == whole["test"]
    answer = Recommender(tmp_path / "whole").recommend([["item-001", "item-002"]], k=5)[0]
    assert (answer.source, len(answer.items)) == ("model", 5)


def test_features_that_are_missing_or_wrong_are_refused_before_anything_is_written(
    dataset: SequenceDataset, tmp_path: Path
) -> None:
    config = config_of(dataset, "unisrec")
    assert dataset.features is not None
    broken = dataset.features.copy()
    broken[[3, 7], 1] = np.nan
    cases = [
        (None, UserError, "unisrec reads features of the items, and the dataset has none; .* 'rearec embed DIR'"),
        (dataset.features[:-1], UserError, "features: 39 rows, but the dataset has 40 items: row 39 is missing"),
        (broken, UserError, "features: row 3 holds a value that is no finite number"),
        (dataset.features[:, :4], ValueError, "feature_dim: got 5, expected the dataset's 4"),
    ]
    for features, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            train(replace(dataset, features=features), tmp_path / "run", config, OPTIONS)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


def test_the_commands_train_and_evaluate_with_features(
    prepared: Path, dataset: SequenceDataset, tmp_path: Path, call_rearec: Any
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(prepared, folder)
    small = ("--dim", 8, "--ffn", 8, "--layers", 1, "--epochs", 1, "--batch-size", 256)
    train_command = ("train", folder, "--out", tmp_path / "run", "--backbone", "unisrec", "--experts", 2, *small)
    refused = call_rearec(*train_command)
    assert refused.returncode == 2
    assert "make them with 'rearec embed DIR'" in refused.stderr and refused.stderr.count("\n") == 1
    np.save(tmp_path / "features.npy", dataset.features)
    assert call_rearec("embed", folder, "--features", tmp_path / "features.npy", "--pca", 0).returncode == 0
    trained = call_rearec(*train_command)
    assert trained.returncode == 0, trained.stderr
    evaluated = call_rearec("evaluate", tmp_path / "run", "--json")
    assert evaluated.returncode == 0, evaluated.stderr

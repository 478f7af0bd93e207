"""A run that goes on with more epochs or more patience, to the numbers of one that was started so."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rearec.data import SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.models.config import ReaRecConfig
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, train

OPTIONS = TrainingOptions(epochs=2, batch_rows=256, lr=1e-2)
CONFIG = ReaRecConfig(40, method="prl", dim=16, ffn=16, layers=1, max_len=8, warmup=1, steps=1)
TIMINGS = ("train_seconds", "valid_seconds", "rows_per_second")


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


def metrics_of(run: Path) -> list[dict[str, Any]]:
    with (run / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


def test_a_finished_run_is_extended_to_the_numbers_of_a_longer_one(dataset: SequenceDataset, tmp_path: Path) -> None:
    longer = replace(OPTIONS, epochs=4)
    whole = train(dataset, tmp_path / "whole", CONFIG, longer)
    train(dataset, tmp_path / "run", CONFIG, OPTIONS)
    assert train(dataset, tmp_path / "run", CONFIG, longer, resume=True) == whole
    assert metrics_of(tmp_path / "run") == metrics_of(tmp_path / "whole")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("run", "whole")]
    assert weights[0] == weights[1]
    assert RunFolder(tmp_path / "run").options()["training"]["epochs"] == 4


def test_an_extension_that_is_killed_goes_on_with_its_new_options(dataset: SequenceDataset, tmp_path: Path) -> None:
    longer = replace(OPTIONS, epochs=4)
    train(dataset, tmp_path / "run", CONFIG, OPTIONS)

    def interrupt(epoch: int, done: int, total: int) -> None:
        if epoch == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", CONFIG, longer, resume=True, on_batch=interrupt)
    assert not RunFolder(tmp_path / "run").finished
    with pytest.raises(UserError, match="--epochs: has trained 3 already, expected as many or more, not 2"):
        train(dataset, tmp_path / "run", CONFIG, OPTIONS, resume=True)
    resumed = train(dataset, tmp_path / "run", CONFIG, longer, resume=True)
    assert resumed == train(dataset, tmp_path / "whole", CONFIG, longer)


def test_a_run_that_stopped_early_goes_on_with_more_patience_only(dataset: SequenceDataset, tmp_path: Path) -> None:
    # nothing changes at this learning rate, so the first epoch stays the best
    options = TrainingOptions(epochs=6, patience=2, batch_rows=1024, lr=1e-30)
    assert train(dataset, tmp_path / "run", CONFIG, options)["epochs"] == 3
    with pytest.raises(UserError, match="stopped early after 3 epochs: it goes on with more --patience than 2 only"):
        train(dataset, tmp_path / "run", CONFIG, replace(options, epochs=9), resume=True)
    with pytest.raises(UserError, match="--patience: was started with 2, which can become more, not less"):
        train(dataset, tmp_path / "run", CONFIG, replace(options, patience=1), resume=True)
    assert train(dataset, tmp_path / "run", CONFIG, replace(options, patience=4), resume=True)["epochs"] == 5


def test_an_extension_that_cannot_be_is_refused_before_anything_changes(
    dataset: SequenceDataset, tmp_path: Path
) -> None:
    cosine = replace(OPTIONS, epochs=1, schedule="cosine")
    before = train(dataset, tmp_path / "run", CONFIG, cosine)
    with pytest.raises(UserError, match="its cosine schedule was made for 1 epochs; only a run with a constant one"):
        train(dataset, tmp_path / "run", CONFIG, replace(cosine, epochs=2), resume=True)
    assert train(dataset, tmp_path / "run", CONFIG, cosine, resume=True) == before

    train(dataset, tmp_path / "other", CONFIG, replace(OPTIONS, epochs=1))
    (tmp_path / "other" / "checkpoints" / "last.ckpt").unlink()
    with pytest.raises(UserError, match=r"last\.ckpt: is missing, and the run cannot go on without"):
        train(dataset, tmp_path / "other", CONFIG, OPTIONS, resume=True)
    assert json.loads((tmp_path / "other" / "result.json").read_text())["epochs"] == 1

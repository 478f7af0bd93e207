"""Settings from presets: what is given wins, unknown names are told, what differs is listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rearec.data import SequenceDataset, load_dataset
from rearec.experiments.demo import DIFFERENCES
from rearec.models.config import METHODS, ReaRecConfig
from rearec.training import TrainingOptions, differing, settings_for
from rearec.training.presets import best_settings


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


@pytest.mark.parametrize("method", METHODS)
def test_the_best_preset_is_the_table_of_the_experiments(method: str, dataset: SequenceDataset) -> None:
    config, options = settings_for(dataset, method=method)
    for name, value in best_settings("sasrec", method).items():
        if (name, method) != ("steps", "base"):
            assert getattr(options if hasattr(options, name) else config, name) == value
    assert config.num_items == dataset.num_items and differing(config, options, "best") == {}


def test_the_paper_preset_is_the_defaults_of_the_records(dataset: SequenceDataset) -> None:
    assert settings_for(dataset, preset="paper") == (ReaRecConfig(dataset.num_items), TrainingOptions())


def test_what_is_given_wins_and_is_told_with_the_value_of_the_preset(dataset: SequenceDataset) -> None:
    config, options = settings_for(dataset, dim=32, epochs=3, seed=7, kl_weight=0.2)
    assert (config.dim, options.epochs, options.seed) == (32, 3, 7)
    # prl does not read kl_weight, and a seed is no setting that a preset could have
    assert differing(config, options, "best") == {"dim": (32, 64), "epochs": (3, 30)}
    assert differing(config, options, "paper")["lr"] == (5e-4, 1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epoch": 3}, "epoch: no setting of a model or a training; did you mean epochs"),
        ({"num_items": 3}, "num_items: no setting"),
        ({"preset": "fast"}, "preset: got 'fast', expected one of best, paper"),
        ({"dim": -1}, "dim: got -1, expected an integer in"),
    ],
)
def test_wrong_names_and_values_are_told(given: dict[str, object], message: str, dataset: SequenceDataset) -> None:
    with pytest.raises(ValueError, match=message):
        settings_for(dataset, **given)


def test_the_three_models_of_the_demo_differ_in_their_method_alone(dataset: SequenceDataset) -> None:
    read_by_all = {"dim", "ffn", "layers", "dropout", "input_dropout", "temperature"}
    settings = [settings_for(dataset, method=method, **DIFFERENCES) for method in ("base", "erl", "prl")]
    assert len({tuple(getattr(config, name) for name in sorted(read_by_all)) for config, _ in settings}) == 1
    assert len({options for _, options in settings}) == 1

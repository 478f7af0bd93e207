"""The fit of a graph prior: what it chooses is the best of its choices, told by ranks among all items."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from repeating_data import dataset_of, repeating_dataset

from rearec.data import GraphOptions, ItemGraph, SequenceDataset
from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.models import ReaRecConfig
from rearec.models.prior import GraphPrior, PriorSettings
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, fit_prior, graph_prior, refit, settings_for, train
from rearec.training.graph_prior import DECAYS, GRAPHS, LAST, SHRINKAGES
from rearec.training.resuming import settings_of_run

PLANTED = generate(0, planted=Planted(users=60))
SMALL: dict[str, Any] = {"dim": 8, "ffn": 8, "layers": 1, "max_len": 8, "epochs": 2, "batch_rows": 128}


def model_of(dataset: SequenceDataset, method: str = "prl", **settings: Any) -> ReaRec:
    torch.manual_seed(0)
    return ReaRec(ReaRecConfig(dataset.num_items, method=method, dim=8, ffn=12, max_len=20, **settings)).eval()


@cache
def graph_of(dataset: SequenceDataset, options: GraphOptions) -> ItemGraph:
    return ItemGraph.of(dataset, options)


def measured(model: ReaRec, dataset: SequenceDataset, exclude: bool, options: GraphOptions, **numbers: float) -> float:
    """NDCG@20 on validation, all items ranked."""
    config = model.config
    graph = graph_of(dataset, options)
    model.prior = GraphPrior(
        graph, PriorSettings(last=LAST, **numbers), config.method, config.steps, config.temperature
    )
    value: float = evaluate(model, dataset, "valid", exclude_seen=exclude, floors=False)["ndcg@20"]
    model.prior = None
    return value


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize(("method", "backbone"), [("base", "sasrec"), ("erl", "sasrec"), ("prl", "bert4rec")])
def test_what_it_tells_of_its_choice_is_what_evaluate_measures(method: str, backbone: str, exclude: bool) -> None:
    model = model_of(PLANTED, method, backbone=backbone)
    without = evaluate(model, PLANTED, "valid", exclude_seen=exclude, floors=False)["ndcg@20"]
    prior = model.prior = fit_prior(model, PLANTED, exclude_seen=exclude)
    assert prior is not None and prior.fit["rows"] == len(PLANTED.rows("valid"))
    result = evaluate(model, PLANTED, "valid", exclude_seen=exclude, floors=False)
    assert prior.fit["valid"] == pytest.approx(result["ndcg@20"], abs=1e-12)
    assert prior.fit["valid_without"] == pytest.approx(without, abs=1e-12)
    assert (prior.method, prior.steps, prior.temperature) == (method, model.config.steps, 0.07)
    assert prior.graph.fingerprint == PLANTED.fingerprint


def test_no_other_numbers_are_better_nor_another_shrinkage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # of the numbers a few, for time
    scales, weights, decays = (0.001, 0.1), (0.0, 1.0, 8.0), DECAYS[::4]
    for name, values in {"SCALES": scales, "WEIGHTS": weights, "DECAYS": decays}.items():
        monkeypatch.setattr(graph_prior, name, values)
    model = model_of(PLANTED)
    prior = fit_prior(model, PLANTED, exclude_seen=True)
    assert prior is not None
    chosen = {name: getattr(prior.settings, name) for name in ("decay", "scale", "weight")}
    options, best = prior.graph.options, prior.fit["valid"]
    for shrinkage, scale, weight in product(SHRINKAGES, scales, weights):
        numbers = {**chosen, "scale": scale, "weight": weight}
        assert measured(model, PLANTED, True, replace(options, shrinkage=shrinkage), **numbers) <= best + 1e-12
    # graph and decay were chosen with the first shrinkage
    found = {
        (graph, decay): max(
            measured(model, PLANTED, True, graph, decay=decay, scale=scale, weight=weight)
            for scale, weight in product(scales, weights)
        )
        for graph, decay in product(GRAPHS, decays)
    }
    first = replace(options, shrinkage=SHRINKAGES[0])
    usual = found[GRAPHS[0], decays[0]]
    if max(found.values()) <= 1.01 * usual:
        assert (first, chosen["decay"]) == (GRAPHS[0], decays[0])
    else:
        assert found[first, chosen["decay"]] == max(found.values())


def test_the_usual_graph_and_decay_give_way_to_no_better_ones_by_a_hair(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(PLANTED)
    for name, values in {"SCALES": (0.001,), "WEIGHTS": (0.0, 8.0), "GRAPHS": GRAPHS[:1]}.items():
        monkeypatch.setattr(graph_prior, name, values)
    numbers = {"scale": 0.001, "weight": 8.0}
    levels = {decay: measured(model, PLANTED, False, GRAPHS[0], decay=decay, **numbers) for decay in DECAYS}
    worst, best = min(levels, key=levels.__getitem__), max(levels, key=levels.__getitem__)
    monkeypatch.setattr(graph_prior, "DECAYS", (worst, best))
    for margin, expected in ((0.0, best), (levels[best] / levels[worst], worst)):
        monkeypatch.setattr(graph_prior, "MARGIN", margin)
        prior = fit_prior(model, PLANTED)
        assert prior is not None and prior.settings.decay == expected


def test_where_the_last_item_tells_all_the_graph_is_of_the_very_next_items() -> None:
    # whoever takes item a takes a + 1 or a + 2 next, as often
    draw = np.random.default_rng(0)
    steps = draw.integers(1, 3, (150, 12))
    dataset = dataset_of([list(walk) for walk in (np.cumsum(steps, 1) + draw.integers(40, size=(150, 1))) % 40], 40)
    prior = fit_prior(model_of(dataset), dataset)
    assert prior is not None and prior.graph.options.window == 1 and prior.settings.decay <= 0.3


def test_it_is_the_same_every_time_and_leaves_the_model_alone() -> None:
    model = model_of(PLANTED).train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    first = fit_prior(model, PLANTED, exclude_seen=True)
    model.prior = first
    again = fit_prior(model, PLANTED, exclude_seen=True, batch_rows=7)
    assert first is not None and again is not None
    assert again.settings == first.settings and again.graph.options == first.graph.options
    assert again.fit["valid"] == pytest.approx(first.fit["valid"]) and model.prior is first and model.training
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_some_rows_are_spread_over_all() -> None:
    model = model_of(PLANTED)
    prior = fit_prior(model, PLANTED, exclude_seen=False, max_rows=20)
    assert prior is not None and prior.fit["rows"] == 20
    split_rows = {**PLANTED.split_rows, "valid": PLANTED.rows("valid")[::3]}
    some = replace(PLANTED, split_rows=split_rows)
    result = evaluate(model, some, "valid", exclude_seen=False, floors=False)
    assert prior.fit["valid_without"] == pytest.approx(result["ndcg@20"], abs=1e-12)


def test_rows_without_a_history_take_no_part() -> None:
    dataset = repeating_dataset()
    rows = np.concatenate([np.asarray(dataset.rows("valid")), np.asarray(dataset.rows("test"))])
    order = np.lexsort((rows[:, 1], rows[:, 0]))
    dataset = replace(dataset, split_rows={**dataset.split_rows, "valid": rows[order]})
    prior = fit_prior(model_of(dataset), dataset)
    assert (rows[:, 1] == 0).sum() == 2 and (prior is None or prior.fit["rows"] == len(rows) - 2)


def test_where_nothing_is_gained_there_is_none() -> None:
    # no item follows another in the training part
    dataset = repeating_dataset()
    none = np.empty((0, 2), dtype=np.int32)
    start = np.zeros((len(dataset.sequence_user), 2), dtype=np.int32)
    start[:, 0] = np.arange(len(start))
    start[:, 1] = np.minimum(1, np.diff(dataset.offsets) - 1)
    assert (
        fit_prior(model_of(dataset), replace(dataset, split_rows={"train": none, "valid": start, "test": none})) is None
    )
    # nothing to choose by
    assert fit_prior(model_of(dataset), replace(dataset, split_rows={**dataset.split_rows, "valid": none})) is None


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(UserError, match="the model knows 12 items"):
        fit_prior(model_of(repeating_dataset()), PLANTED)
    model = model_of(PLANTED)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="no finite numbers"):
        fit_prior(model, PLANTED)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with a graph prior."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, train(PLANTED, run, *settings_for(PLANTED, method="base", **SMALL), logger="none")


def test_a_training_with_the_best_settings_ends_with_the_fit(trained: tuple[Path, dict[str, Any]]) -> None:
    run, result = trained
    model = ReaRec.from_pretrained(run)
    assert settings_of_run(RunFolder(run))[1].prior == "graph" and model.prior is not None
    for split in ("valid", "test"):
        assert result[split]["prior"] == "graph"
        assert result[split] == evaluate(model, PLANTED, split, exclude_seen=False, floors=split == "test")  # type: ignore[arg-type]
    best = max(float(row["valid_ndcg@20"]) for row in RunFolder(run).metrics())
    assert result["valid"]["without_prior"]["ndcg@20"] == pytest.approx(best) and best < result["valid"]["ndcg@20"]
    card = (run / "README.md").read_text()
    assert "graph prior" in card and "| without its graph prior |" in card


def test_it_changes_nothing_of_the_training(trained: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    plain = train(
        PLANTED, tmp_path / "plain", *settings_for(PLANTED, method="base", prior="none", **SMALL), logger="none"
    )
    run, result = trained
    assert plain["best_epoch"] == result["best_epoch"] and not (tmp_path / "plain" / "prior.safetensors").exists()
    assert plain["test"]["prior"] == "none" and "without_prior" not in plain["test"]
    for name, value in result["test"]["without_prior"].items():
        assert plain["test"][name] == value
    ours, theirs = (ReaRec.from_pretrained(folder).state_dict() for folder in (run, tmp_path / "plain"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_training_that_goes_on_ends_as_one_that_was_not_interrupted(tmp_path: Path) -> None:
    config, options = settings_for(PLANTED, method="base", **SMALL)
    whole = train(PLANTED, tmp_path / "whole", config, options, logger="none")

    class Stop(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        train(PLANTED, tmp_path / "parts", config, options, logger="none", on_epoch=stop)
    assert train(PLANTED, tmp_path / "parts", config, options, logger="none", resume=True) == whole


def test_a_run_from_before_there_was_a_prior_is_resumed_without(trained: Any, tmp_path: Path) -> None:
    config, options = settings_for(PLANTED, method="base", prior="none", **SMALL)
    result = train(PLANTED, tmp_path / "run", config, options, logger="none")
    file = tmp_path / "run" / "options.json"
    stored = json.loads(file.read_text())
    del stored["training"]["prior"]
    file.write_text(json.dumps(stored))
    assert train(PLANTED, tmp_path / "run", config, options, logger="none", resume=True) == result
    with pytest.raises(UserError, match="training option prior = 'none', not 'graph'"):
        train(PLANTED, tmp_path / "run", config, replace(options, prior="graph"), logger="none", resume=True)


def test_a_refit_has_the_numbers_and_the_graph_of_all_interactions(trained: Any, tmp_path: Path) -> None:
    run, _ = trained
    refit(run, tmp_path / "final", data=PLANTED, logger="none")
    before, after = (ReaRec.from_pretrained(folder).prior for folder in (run, tmp_path / "final"))
    assert before is not None and after is not None and after.settings == before.settings
    assert after.graph.fingerprint == PLANTED.for_refit().fingerprint
    expected = ItemGraph.of(PLANTED.for_refit(), before.graph.options)
    assert after.graph.weights.tolist() == expected.weights.tolist()


def test_the_papers_settings_have_none() -> None:
    assert settings_for(PLANTED, preset="paper")[1].prior == "none" == TrainingOptions().prior
    assert settings_for(PLANTED)[1].prior == "graph"
    with pytest.raises(ValueError, match="prior: got 'yes', expected one of none, graph"):
        TrainingOptions(prior="yes")  # type: ignore[arg-type]

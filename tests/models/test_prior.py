"""A model's graph prior: its formula, its file, for which models it is, and what it does to ranks and metrics."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from repeating_data import dataset_of, repeating_dataset

from rearec.data import ItemGraph, SequenceDataset, collate_histories
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.evaluation import evaluate, rank_rows
from rearec.models import ReaRecConfig
from rearec.models.prior import GraphPrior, PriorSettings
from rearec.reasoning import ReaRec

DATASET = repeating_dataset()


def model_of(method: str = "prl", dataset: SequenceDataset = DATASET, **settings: Any) -> ReaRec:
    torch.manual_seed(0)
    return ReaRec(ReaRecConfig(dataset.num_items, method=method, dim=8, ffn=12, max_len=8, **settings)).eval()


def prior_of(model: ReaRec, dataset: SequenceDataset = DATASET, **settings: Any) -> GraphPrior:
    config, numbers = model.config, PriorSettings(**{"weight": 2.0, **settings})
    return GraphPrior(
        ItemGraph.of(dataset), numbers, method=config.method, steps=config.steps, temperature=config.temperature
    )


def with_prior(method: str = "prl") -> ReaRec:
    model = model_of(method)
    model.prior = prior_of(model)
    return model


def test_the_bonus_is_that_of_the_formula() -> None:
    graph = ItemGraph(
        offsets=np.array([0, 2, 3, 3]),
        neighbors=np.array([1, 2, 2], dtype=np.int32),
        weights=np.array([0.5, 0.25, 0.125], dtype=np.float32),
        options=ItemGraph.of(DATASET).options,
        fingerprint="",
    )
    prior = GraphPrior(
        graph, PriorSettings(last=2, decay=0.5, scale=0.1, weight=3.0), method="base", steps=0, temperature=0.2
    )
    # the first 1 is too far back, 2 links nothing, one history is empty
    bonus = prior.bonus(np.array([0, 3, 4, 4]), np.array([1, 0, 1, 2]))
    assert bonus.offsets.tolist() == [0, 2, 2, 2] and bonus.items.tolist() == [1, 2]
    expected = [0.2 * 3 * math.log(1 + 0.25 / 0.1), 0.2 * 3 * math.log(1 + (0.125 + 0.5 * 0.25) / 0.1)]
    assert bonus.scores.tolist() == pytest.approx(expected, rel=1e-12)


def test_it_is_no_part_of_the_state_dict_and_can_be_taken_off() -> None:
    model = with_prior()
    assert model.state_dict().keys() == model_of().state_dict().keys()
    model.prior = None
    assert evaluate(model, DATASET, floors=False)["prior"] == "none"


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_it_is_saved_with_the_model_and_comes_back(tmp_path: Path, method: str) -> None:
    model = with_prior(method)
    model.prior = replace(prior_of(model), fit={"valid_without": 0.1, "valid": 0.2, "rows": 7})
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "prior.safetensors"),
    ]
    loaded = ReaRec.from_pretrained(tmp_path)
    assert loaded.prior is not None
    for name in ("settings", "method", "steps", "temperature", "fit"):
        assert getattr(loaded.prior, name) == getattr(model.prior, name)
    for name in ("offsets", "neighbors", "weights"):
        assert getattr(loaded.prior.graph, name).tolist() == getattr(model.prior.graph, name).tolist()
    assert evaluate(loaded, DATASET) == evaluate(model, DATASET)
    assert ReaRec.from_pretrained(tmp_path, prior=False).prior is None
    # into the folder that its arrays are mapped from
    loaded.save_pretrained(tmp_path)
    assert ReaRec.from_pretrained(tmp_path).prior is not None


def test_one_that_cannot_be_written_leaves_what_was_saved_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*given: Any) -> None:
        raise UserError("no space left")

    with_prior().save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(GraphPrior, "save", fails)
    with pytest.raises(UserError, match="no space left"):
        with_prior("erl").save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_saving_a_model_without_one_removes_that_of_the_model_before(tmp_path: Path) -> None:
    with_prior().save_pretrained(tmp_path)
    model_of().save_pretrained(tmp_path)
    assert ReaRec.from_pretrained(tmp_path).prior is None
    assert not (tmp_path / "prior.safetensors").exists()


def test_the_card_names_it(tmp_path: Path) -> None:
    with_prior().save_pretrained(tmp_path / "with")
    model_of().save_pretrained(tmp_path / "without")
    with_it, without = ((tmp_path / name / "README.md").read_text() for name in ("with", "without"))
    assert "graph prior" in with_it and "0.07 · 2 · log(1 + s / 0.01)" in with_it
    assert "prior" not in without


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"method": "erl"}, "method prl, expected erl"),
        ({"steps": 1}, "steps 2, expected 1"),
        ({"temperature": 0.1}, r"temperature 0\.07, expected 0\.1"),
        ({"num_items": 13}, "items 12, expected 13"),
    ],
)
def test_that_of_another_model_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    prior = with_prior().prior
    assert prior is not None
    other = ReaRec(ReaRecConfig(**{"num_items": 12, "method": "prl", "dim": 8, "ffn": 12, "max_len": 8, **changes}))
    other.save_pretrained(tmp_path)
    prior.save(tmp_path / "prior.safetensors")
    with pytest.raises(UserError, match=rf"prior\.safetensors: a graph prior for another model: {expected}"):
        ReaRec.from_pretrained(tmp_path)
    other.prior = prior
    with pytest.raises(UserError, match=rf"^prior: a graph prior for another model: {expected}"):
        Engine(other)


@pytest.mark.parametrize(
    ("noted", "expected"),
    [
        ({}, "settings"),
        ({"settings": {"weight": -1}, "temperature": 0.07, "fit": {}, "method": "prl", "steps": 2}, "weight: got -1"),
        ({"settings": {}, "temperature": "warm", "fit": {}, "method": "prl", "steps": 2}, "warm"),
        ({"settings": {}, "temperature": 0.07, "fit": {}, "method": "prl", "steps": 2, "more": 1}, "more"),
    ],
)
def test_a_file_that_is_a_graph_but_no_prior_is_refused(tmp_path: Path, noted: dict[str, Any], expected: str) -> None:
    model_of().save_pretrained(tmp_path)
    ItemGraph.of(DATASET).save(tmp_path / "prior.safetensors", noted)
    with pytest.raises(UserError, match=rf"prior\.safetensors: damaged: no prior of a model .*{expected}"):
        ReaRec.from_pretrained(tmp_path)


def test_a_damaged_file_is_refused_and_can_be_left_aside(tmp_path: Path) -> None:
    model = with_prior()
    model.save_pretrained(tmp_path)
    file = tmp_path / "prior.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(UserError, match=r"prior\.safetensors: not a readable item graph"):
        ReaRec.from_pretrained(tmp_path)
    safetensors.torch.save_file({"offsets": torch.zeros(3, dtype=torch.int64)}, file)
    with pytest.raises(UserError, match=r"prior\.safetensors"):
        ReaRec.from_pretrained(tmp_path)
    assert ReaRec.from_pretrained(tmp_path, prior=False).prior is None


def test_an_engine_keeps_it_as_it_was_until_refreshed() -> None:
    model, history = with_prior(), (np.array([0, 2]), np.array([3, 1]))
    engine = Engine(model)
    before = engine.bonus(*history)
    assert before is not None and len(before.items) > 0
    model.prior = None
    kept = engine.bonus(*history)
    assert kept is not None and kept.scores.tolist() == before.scores.tolist()
    engine.refresh()
    assert engine.bonus(*history) is None


def test_an_engine_that_refuses_a_prior_stays_as_it_was() -> None:
    model = with_prior()
    engine = Engine(model)
    prior, catalog = engine.prior, engine.catalog
    assert prior is not None
    model.prior = replace(prior, steps=1)
    with pytest.raises(UserError, match="steps 1, expected 2"):
        engine.refresh()
    assert engine.catalog is catalog and engine.prior is prior


def test_it_serves_the_steps_that_it_was_fitted_for() -> None:
    model, history = with_prior(), (np.array([0, 1]), np.array([3]))
    engine = Engine(model)
    assert engine.bonus(*history, steps=2) is not None and engine.bonus(*history, steps=1) is None
    with pytest.raises(ValueError, match=r"steps: got 3, expected 0\.\.2"):
        engine.bonus(*history, steps=3)
    assert model.prior is not None
    assert model.prior.left_out(1) == "answered without the graph prior: it was fitted for 2 steps, not 1"
    assert evaluate(model, DATASET, steps=1, floors=False)["prior"] == "none"
    with pytest.raises(UserError, match="fitted for 2 steps, not 1"):
        evaluate(model, DATASET, steps=1, prior=True)


@pytest.mark.parametrize("exclude", [False, True])
def test_ranks_are_those_of_all_scores_with_the_bonus(exclude: bool) -> None:
    model = with_prior()
    assert model.prior is not None
    sequences = [DATASET.history(*row).tolist() for row in DATASET.rows("valid")]
    ranked = rank_rows(model, DATASET, "valid", exclude_seen=exclude, per_step=True)
    without = rank_rows(model, DATASET, "valid", exclude_seen=exclude, per_step=True, prior=False)
    assert ranked.without_prior is not None and ranked.by_step is not None and without.by_step is not None
    assert ranked.without_prior.tolist() == without.final.tolist() and without.without_prior is None
    assert ranked.by_step.tolist() == without.by_step.tolist()
    engine = Engine(model)
    for row, history in enumerate(sequences):
        batch = collate_histories([history[-8:]], 8)
        scores = (model.final_state(engine(batch).states) @ engine.weight.T)[0].double().numpy()
        bonus = model.prior.bonus(np.array([0, len(history)]), np.array(history))
        scores[bonus.items] += bonus.scores
        target = DATASET.targets("valid")[row]
        rivals = [item for item in range(12) if item != target and not (exclude and item in history)]
        assert ranked.final[row] == (scores[rivals] > scores[target]).sum()
    assert len(sequences) == len(ranked.final) and (ranked.final != without.final).any()


def test_metrics_are_told_with_it_and_without_it() -> None:
    model, metrics = with_prior(), ["ndcg@5", "coverage@3", "mrr"]
    both = evaluate(model, DATASET, metrics=metrics, per_step=True, users_by="length", floors=False)
    without = evaluate(model, DATASET, metrics=metrics, per_step=True, floors=False, prior=False)
    assert both["prior"] == "graph" and without["prior"] == "none" and "without_prior" not in without
    assert both["without_prior"] == {name: without[name] for name in both["without_prior"]}
    assert both["by_step"] == without["by_step"] and both["ndcg@5"] != without["ndcg@5"]
    # two of the rows have no history: they are ranked by popularity, with a prior or without it
    assert both["empty_history_rows"] == 2
    weights = [group["rows"] for group in both["users_by_length"]]
    mean = np.average([group["ndcg@5"] for group in both["users_by_length"]], weights=weights)
    assert mean == pytest.approx(both["ndcg@5"])


def test_one_that_is_asked_for_has_to_be_there_and_of_this_data() -> None:
    with pytest.raises(UserError, match=r"no graph prior; 'rearec prior RUN' fits one"):
        evaluate(model_of(), DATASET, prior=True)
    other = repeating_dataset(users=24)
    with pytest.raises(UserError, match="counted in other data than this dataset"):
        evaluate(with_prior(), other)
    assert evaluate(with_prior(), other, prior=False, floors=False)["prior"] == "none"


def test_an_item_alone_and_items_without_neighbours_have_no_bonus() -> None:
    alone = dataset_of([[0, 0, 0, 0], [0, 0, 0]], 1)
    model = model_of(dataset=alone)
    model.prior = prior_of(model, alone)
    result = evaluate(model, alone, "test")
    assert result["prior"] == "graph" and result["ndcg@20"] == result["without_prior"]["ndcg@20"] == 1.0
    assert len(model.prior.bonus(np.array([0, 2, 2]), np.array([0, 0])).items) == 0


def test_a_refit_counts_the_graph_anew_and_keeps_the_numbers() -> None:
    prior, whole = prior_of(model_of(), weight=0.5), DATASET.for_refit()
    counted = prior.counted_in(whole)
    assert counted.settings == prior.settings and counted.graph.options == prior.graph.options
    assert counted.graph.fingerprint == whole.fingerprint != prior.graph.fingerprint
    assert counted.graph.weights.tolist() != prior.graph.weights.tolist()

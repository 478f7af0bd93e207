"""Every metric, both ways of treating seen items, against an evaluation written down a second time in float64."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from typing import Any

import pytest
import torch
from analysis_models import random_model
from brute_force_evaluation import (
    Row,
    floor_scores,
    histories_of,
    measure,
    model_scores,
    popularity_scores,
    rank,
    rows_of,
    rules_scores,
    shown,
)
from repeating_data import dataset_of, repeating_dataset

from rearec.data import SequenceDataset
from rearec.evaluation import evaluate, floors, graph_floors, rank_rows
from rearec.evaluation.floors import FLOORS, baseline_lists, baseline_ranks, floor_settings
from rearec.evaluation.metrics import METRICS
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec

NAMES = [
    *("ndcg@1", "ndcg@5", "recall@5", "hit@3", "map@4", "mrr", "mrr@2"),
    *("coverage@1", "coverage@5", "coverage@12", "novelty@1", "novelty@5", "arp@3", "arp@12"),
]
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def dataset() -> SequenceDataset:
    return repeating_dataset()


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The floors look at a few rows at a time."""
    monkeypatch.setattr(floors, "CHUNK", 7)
    monkeypatch.setattr(graph_floors, "EDGES", 300)


def model_with_ties(dataset: SequenceDataset, method: str) -> ReaRec:
    """Items 1, 4 and 7 have one embedding, so that they tie in every ranking."""
    model = random_model(dataset, method, steps=0 if method == "base" else 2)
    with torch.no_grad():
        model.weight[[4, 7]] = model.weight[1].clone()
    return model


def check(
    found: dict[str, Any], names: Sequence[str], dataset: SequenceDataset, rows: list[Row], exclude: bool
) -> None:
    """The metrics of these names, with their errors, are those of these rows."""
    assert found["rows"] == len(rows)
    for name in names:
        value, error = measure(name, dataset, rows, exclude)
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-12, abs=1e-15)), name
        assert found[f"{name}_se"] == (error if error is None else pytest.approx(error, rel=1e-9, abs=1e-15)), name


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize("method", ["base", "erl", "prl"])
@pytest.mark.parametrize("split", SPLITS)
def test_ranks_by_the_answer_and_by_every_step(
    dataset: SequenceDataset, split: Any, method: str, exclude: bool
) -> None:
    model = model_with_ties(dataset, method)
    ranked = rank_rows(model, dataset, split, exclude_seen=exclude, batch_rows=50, per_step=True)
    assert ranked.by_step is not None
    scores = model_scores(model, dataset, split)
    for row, (_, history, target) in enumerate(histories_of(dataset, split)):
        seen = history if exclude else []
        expected = [rank(by_state, target, seen) for by_state in scores[row]]
        assert [ranked.final[row], *ranked.by_step[row]] == expected


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize("split", SPLITS)
def test_ranks_by_the_floors(dataset: SequenceDataset, split: Any, exclude: bool) -> None:
    ranks = baseline_ranks(dataset, split, exclude_seen=exclude)
    chosen = floor_settings(dataset, exclude_seen=exclude)["rules"]
    assert tuple(ranks) == FLOORS
    for name, scores in floor_scores(dataset, split, chosen).items():
        for row, (_, history, target) in enumerate(histories_of(dataset, split)):
            assert ranks[name][row] == rank(scores[row], target, history if exclude else []), (name, row)


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize("split", SPLITS)
def test_lists_of_the_floors(dataset: SequenceDataset, split: Any, exclude: bool) -> None:
    k = 5
    chosen = floor_settings(dataset, exclude_seen=exclude)["rules"]
    lists: dict[str, dict[int, list[int]]] = {name: {} for name in FLOORS}
    for name, rows, items in baseline_lists(dataset, split, k, exclude_seen=exclude):
        assert items.shape == (len(rows), k)
        lists[name].update(zip(rows.tolist(), items.tolist(), strict=True))
    for name, scores in floor_scores(dataset, split, chosen).items():
        for row, (_, history, _) in enumerate(histories_of(dataset, split)):
            expected = shown(scores[row], history if exclude else [], k)
            assert lists[name][row] == [*expected, *[-1] * (k - len(expected))], (name, row)


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
def test_rules_are_the_best_on_the_validation_rows(dataset: SequenceDataset, exclude: bool) -> None:
    values = {}
    for options, decay in product(graph_floors.GRAPHS, graph_floors.DECAYS):
        settings = {**asdict(options), "last": graph_floors.LAST, "history_decay": decay}
        rows = rows_of(dataset, "valid", rules_scores(dataset, "valid", settings))
        values[json.dumps(settings)] = measure("ndcg@20", dataset, rows, exclude)[0]
    chosen = floor_settings(dataset, exclude_seen=exclude)["rules"]
    assert chosen.pop("chosen_by_rows") == 27
    best = max(value for value in values.values() if value is not None)
    # ties to the earlier one
    assert json.dumps(chosen) == next(name for name, value in values.items() if value == pytest.approx(best, rel=1e-12))
    assert len({round(value or 0, 6) for value in values.values()}) > 4


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_metrics_of_rows_steps_groups_and_floors(dataset: SequenceDataset, method: str, exclude: bool) -> None:
    model = model_with_ties(dataset, method)
    options: dict[str, Any] = {"users_by": "length", "items_by": "popularity", "per_step": True, "batch_rows": 5}
    result = evaluate(model, dataset, exclude_seen=exclude, metrics=NAMES, **options)
    assert result["seen"] == ("excluded" if exclude else "kept")
    assert list(result)[: 2 * len(NAMES)] == [word for name in NAMES for word in (name, f"{name}_se")]

    scores, popularity = model_scores(model, dataset, "test"), popularity_scores(dataset)
    for state, found in enumerate([result, *result["by_step"]]):
        check(found, NAMES, dataset, rows_of(dataset, "test", [of_row[state] for of_row in scores]), exclude)
    rows = rows_of(dataset, "test", [of_row[0] for of_row in scores])
    chosen = result["rules"].pop("settings")
    assert chosen == floor_settings(dataset, exclude_seen=exclude)["rules"] == json.loads(json.dumps(chosen))
    for name, of_floor in floor_scores(dataset, "test", chosen).items():
        check(result[name], NAMES, dataset, rows_of(dataset, "test", of_floor), exclude)

    for key, values in (
        ("users_by_length", [len(row.history) for row in rows]),
        ("items_by_popularity", [popularity[row.target] for row in rows]),
    ):
        assert len(result[key]) > 1 and sum(group["rows"] for group in result[key]) == len(rows)
        for group in result[key]:
            low, _, high = group["group"].partition("–")
            of_group = [row for row, value in zip(rows, values, strict=True) if int(low) <= value <= int(high or low)]
            check(group, NAMES, dataset, of_group, exclude)


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
def test_a_backbone_that_encodes_every_row_by_itself(dataset: SequenceDataset, exclude: bool) -> None:
    torch.manual_seed(0)
    config = ReaRecConfig(dataset.num_items, backbone="bert4rec", method="erl", dim=8, ffn=8, layers=1, max_len=6)
    model = ReaRec(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.5)
    result = evaluate(model, dataset, exclude_seen=exclude, metrics=NAMES, batch_rows=4)
    check(
        result, NAMES, dataset, rows_of(dataset, "test", [r[0] for r in model_scores(model, dataset, "test")]), exclude
    )


def test_the_usual_metrics_are_those_without_names(dataset: SequenceDataset) -> None:
    model = model_with_ties(dataset, "prl")
    rows = rows_of(dataset, "test", [of_row[0] for of_row in model_scores(model, dataset, "test")])
    check(evaluate(model, dataset, exclude_seen=True), METRICS, dataset, rows, True)


@pytest.mark.parametrize("exclude", [False, True], ids=["kept", "excluded"])
@pytest.mark.parametrize("num_items", [1, 2, 3])
def test_catalogues_smaller_than_what_is_asked_for(num_items: int, exclude: bool) -> None:
    """Nearly every row knows every item: lists are short or empty, targets stay candidates."""
    dataset = dataset_of([[*range(num_items)] * 4, [*range(num_items)] * 5, [0] * 6], num_items)
    model = random_model(dataset)
    names = [f"{kind}@{num_items}" for kind in ("ndcg", "coverage", "novelty", "arp")]
    result = evaluate(model, dataset, exclude_seen=exclude, metrics=names)
    rows = rows_of(dataset, "test", [of_row[0] for of_row in model_scores(model, dataset, "test")])
    check(result, names, dataset, rows, exclude)
    assert evaluate(model, dataset, exclude_seen=exclude)["recall@20"] == 1
    if num_items == 1 and exclude:
        assert result["coverage@1"] == 0 and result["novelty@1"] is None


def test_a_large_batch_and_a_small_one_say_the_same(dataset: SequenceDataset) -> None:
    model = random_model(dataset)
    results = [evaluate(model, dataset, exclude_seen=True, metrics=NAMES, batch_rows=rows) for rows in (3, 1000)]
    assert results[0] == results[1]

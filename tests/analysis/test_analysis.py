"""Analyses of trained models against values worked out by hand or by brute force."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from analysis_models import random_model, states_of

from rearec.analysis import case, ceiling, latency, ranks, rows, similarity, steps, subgroups
from rearec.analysis.analyses import Subject
from rearec.data import Batch, SequenceDataset, load_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate, quantile_groups, rank_rows, seen_items
from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.floors import FLOORS, baseline_ranks
from rearec.evaluation.metrics import METRICS, rank_metrics, row_metrics
from rearec.reasoning import ReaRec, Rollout
from rearec.report.page import Page

pytestmark = pytest.mark.usefixtures("quick_figures")

LABELS = ("model", "grouping", "seen", "metric")


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    return load_dataset(prepared)


@pytest.fixture(scope="module")
def trained(run_folder: Path) -> ReaRec:
    return ReaRec.from_pretrained(run_folder)


def test_row_metrics_average_to_the_metrics_and_keep_the_shape() -> None:
    values = np.random.default_rng(0).integers(0, 40, (3, 50)) / 2
    by_row = row_metrics(values)
    for name in METRICS:
        assert by_row[name].shape == (3, 50)
        assert by_row[name][1].mean() == pytest.approx(rank_metrics(values[1])[name], rel=1e-12)


# steps


def test_metrics_by_step_are_those_of_fewer_steps(dataset: SequenceDataset) -> None:
    model = random_model(dataset)
    result = steps.metrics_by_step(model, dataset)
    entries = result["by_step"]
    assert result["ndcg@20"] == entries[2]["ndcg@20"]
    assert [entry["step"] for entry in entries] == [0, 1, 2]
    for entry in entries:
        assert entry["ndcg@20"] == pytest.approx(evaluate(model, dataset, steps=entry["step"])["ndcg@20"], rel=1e-12)
        assert entry["rows"] == 150 and entry["mrr_se"] > 0


@pytest.mark.parametrize("metric", ["ndcg@20", "hit@3", "mrr"])
def test_what_the_steps_change_is_paired_over_rows(dataset: SequenceDataset, metric: str) -> None:
    model = random_model(dataset, "erl")
    result = steps.metrics_by_step(model, dataset, metric=metric.upper(), seed=3)
    ranked = rank_rows(model, dataset, per_step=True)
    assert ranked.by_step is not None
    of_rows = row_metrics(ranked.by_step, [metric])[metric]
    assert result["metric"] == metric and "over_step_0" not in result["by_step"][0]
    for entry in result["by_step"][1:]:
        expected = paired_interval(of_rows[:, entry["step"]], of_rows[:, 0], seed=3)
        assert entry["over_step_0"] == asdict(expected)
        assert expected.difference == pytest.approx(entry[metric] - result["by_step"][0][metric])
    answer = paired_interval(row_metrics(ranked.final, [metric])[metric], of_rows[:, 0], seed=3)
    assert result["over_step_0"] == asdict(answer)
    # the floors are those of the evaluation
    expected_floors = evaluate(model, dataset, metrics=["ndcg@20", metric])
    for floor in FLOORS:
        assert result[floor][metric] == expected_floors[floor][metric]


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("coverage@5", "is about lists"),
        ("ndcg", "lacks its k"),
        ("magic@3", "unknown metric"),
        ("hit@1000", "k = 1000"),
    ],
)
def test_a_metric_that_ranks_do_not_tell_is_refused_before_anything_is_ranked(
    dataset: SequenceDataset, metric: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "rank_rows", None)
    monkeypatch.setattr(subgroups, "evaluate", None)
    model = random_model(dataset)
    with pytest.raises(UserError, match=words):
        steps.metrics_by_step(model, dataset, metric=metric)
    with pytest.raises(UserError, match=words):
        subgroups.subgroups({"prl": model}, dataset, metric=metric)
    with pytest.raises(UserError, match=words):
        Subject("prl", model, dataset, metric=metric)


# ceiling


def test_best_rank_is_the_smallest_of_each_row() -> None:
    assert ceiling.best_rank([[3, 1.5, 2], [0, 4, 9]]).tolist() == [1.5, 0]
    for wrong in ([1, 2], np.empty((3, 0))):
        with pytest.raises(ValueError, match=r"ranks: got shape"):
            ceiling.best_rank(wrong)


def test_the_ceiling_and_its_control_are_worked_out_by_hand() -> None:
    by_step = [[0, 30], [30, 2], [2, 30]]
    control = [[30, 30], [0, 0], [30, 2]]
    result = ceiling.ceiling(by_step, control)
    assert result.states == 2
    assert result.last["ndcg@20"] == pytest.approx(0.5 / 3)
    assert result.best["ndcg@20"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert result.base is not None and result.control is not None and result.over_control is not None
    assert result.base["ndcg@20"] == pytest.approx((1 / 3 + 1.5 / 3) / 2)
    assert result.control["ndcg@20"] == pytest.approx((0 + 1 + 0.5) / 3)
    # what the two base models add to a row on the average: 0, 1, 1/4
    assert result.base["ndcg@20_se"] == pytest.approx(np.std([0, 1, 0.25], ddof=1) / 3**0.5)
    by_hits = ceiling.ceiling(by_step, control, metric="hit@1")
    assert by_hits.over_control is not None and by_hits.metric == "hit@1"
    assert (by_hits.best["hit@1"], by_hits.over_control.difference) == (1 / 3, 0)
    # rows differ by 1, -1/2 and 0
    assert result.over_control.difference == pytest.approx(0.5 / 3)
    assert (result.over_control.low, result.over_control.high) == pytest.approx((-0.5, 1.0))


def test_a_control_of_another_number_of_models_or_rows_is_refused() -> None:
    for control in (np.zeros((4, 3)), np.zeros((3, 2))):
        with pytest.raises(ValueError, match=r"control: got shape .* expected \(4, 2\)"):
            ceiling.ceiling(np.zeros((4, 2)), control)


@pytest.mark.parametrize(
    ("best", "best_control", "words"),
    [
        ([9] * 40, [0] * 40, "so it is noise"),
        ([3] * 40, [3] * 40, "so it is noise"),
        ([0] * 40, [9] * 40, "differ by more than the seeds of base do"),
        ([0, 3] + [5] * 38, [3, 1] + [5] * 38, "by less than can be told from chance"),
    ],
)
def test_the_page_says_whether_a_ceiling_is_noise(
    best: list[int], best_control: list[int], words: str, tmp_path: Path
) -> None:
    result = ceiling.ceiling(np.stack([best, [50] * 40], 1), np.stack([best_control, [50] * 40], 1))
    page = Page(tmp_path, "ceiling", "Ceiling")
    ceiling.page(page, {"prl": result}, seen="kept")
    assert words in page.markdown and "A ceiling below its control is noise" in page.markdown


def test_without_a_control_the_page_says_that_nothing_follows(tmp_path: Path) -> None:
    page = Page(tmp_path, "ceiling", "Ceiling")
    ceiling.page(page, {"prl": ceiling.ceiling([[0, 1], [1, 0], [3, 3]])}, seen="kept")
    page.write()
    assert "no control here, so nothing follows" in page.markdown
    (row,) = csv.DictReader((tmp_path / "ceiling.csv").open())
    assert float(row["ceiling gain %"]) == pytest.approx(
        100 * ((2 + 1 / math.log2(5)) / (1 + 1 / math.log2(3) + 1 / math.log2(5)) - 1)
    )
    assert row["control gain %"] == row["low"] == ""


# subgroups


def test_subgroups_are_those_of_the_evaluation_for_every_model(dataset: SequenceDataset, tmp_path: Path) -> None:
    models = {name: random_model(dataset, name, seed) for seed, name in enumerate(("base", "prl"))}
    result = subgroups.subgroups(models, dataset)
    expected = evaluate(models["prl"], dataset, users_by="length", items_by="popularity", floors=False)
    for grouping in ("users_by_length", "items_by_popularity"):
        found = [row for row in result if row["model"] == "prl" and row["grouping"] == grouping]
        assert [{k: v for k, v in row.items() if k not in LABELS} for row in found] == expected[grouping]
    page = Page(tmp_path, "subgroups", "Groups")
    subgroups.page(page, result)
    page.write()
    with (tmp_path / "subgroups.csv").open() as file:
        read = list(csv.DictReader(file))
    first = next(row for row in result if row["model"] == "base")
    assert (read[0]["group"], float(read[0]["base"]), float(read[0]["base_se"])) == (
        first["group"],
        first["ndcg@20"],
        first["ndcg@20_se"],
    )
    assert len(read) == len(result) / 6
    # the floors of the same rows, by hand for the most popular targets
    exclude = seen_items(dataset).exclude
    ranks_of = baseline_ranks(dataset, "test", exclude_seen=exclude)
    popularity = dataset.train_item_counts()[dataset.targets("test")]
    *_, (low, high, mask) = quantile_groups(popularity)
    for floor in FLOORS:
        last = [row for row in result if row["model"] == floor and row["grouping"] == "items_by_popularity"][-1]
        assert last["group"] == f"{low}–{high}" and last["rows"] == mask.sum()
        assert last["ndcg@20"] == rank_metrics(ranks_of[floor][mask])["ndcg@20"]


# latency


def test_latency_measures_every_number_of_steps_on_one_batch(dataset: SequenceDataset) -> None:
    model = random_model(dataset)
    result = latency.latency(model, dataset, rows=16, repeats=3)
    assert [entry["steps"] for entry in result] == [0, 1, 2]
    assert result[0]["relative"] == 1
    for entry in result:
        assert entry["rows"] == 16
        assert 0 < entry["rollout_ms"] < entry["ms"] and entry["ms_25"] <= entry["ms"] <= entry["ms_75"]
        assert entry["relative"] == entry["ms"] / result[0]["ms"]
    assert latency.latency(model, dataset, rows=1000, repeats=1, steps=[2])[0]["rows"] == 150


def test_latency_takes_turns_and_times_nothing_but_the_work(
    dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock that only the work moves (a millisecond and one more per step), the medians are exact."""
    model = random_model(dataset)
    now, order = 0.0, []

    class CountingEngine(latency.Engine):
        def __call__(self, batch: Batch, steps: int | None = None) -> Rollout:
            nonlocal now
            assert steps is not None
            now += (1 + steps) / 1000
            order.append(steps)
            return super().__call__(batch, steps)

    monkeypatch.setattr(latency, "Engine", CountingEngine)
    monkeypatch.setattr(latency.time, "perf_counter", lambda: now)
    result = latency.latency(model, dataset, rows=4, repeats=5)
    assert [entry["rollout_ms"] for entry in result] == pytest.approx([1, 2, 3])
    assert [entry["relative"] for entry in result] == pytest.approx([1, 2, 3])
    rounds = [tuple(order[begin : begin + 3]) for begin in range(0, len(order), 3)]
    assert all(sorted(turn) == [0, 1, 2] for turn in rounds) and len(set(rounds)) > 1
    assert len(rounds) == 5 + latency.WARM_UPS


def test_latency_refuses_what_it_cannot_measure(dataset: SequenceDataset) -> None:
    with pytest.raises(ValueError, match="rows, repeats: got 0 and 1"):
        latency.latency(random_model(dataset), dataset, rows=0, repeats=1)
    with pytest.raises(ValueError, match=r"steps: got 3"):
        latency.latency(random_model(dataset), dataset, rows=2, repeats=1, steps=[3])


# similarity


def test_similarity_is_the_mean_cosine(dataset: SequenceDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(dataset)
    monkeypatch.setattr(similarity, "BATCH_ROWS", 64)
    expected = np.zeros((3, 3))
    for row in range(150):
        states = states_of(model, dataset, row).double().numpy()
        unit = states / np.linalg.norm(states, axis=1, keepdims=True)
        expected += unit @ unit.T / 150
    found = similarity.similarity(model, dataset)
    assert np.abs(found - expected).max() < 1e-6
    assert np.abs(np.diag(found) - 1).max() < 1e-12 and abs(found[0, 2]) < 0.99


def test_similarity_draws_rows_without_regard_to_their_length(dataset: SequenceDataset) -> None:
    drawn = rows.sample_rows(dataset, "test", 30, seed=1)
    assert len(set(drawn.tolist())) == 30 and (np.diff(drawn) > 0).all()
    assert drawn.tolist() == rows.sample_rows(dataset, "test", 30, seed=1).tolist()
    assert drawn.tolist() != rows.sample_rows(dataset, "test", 30, seed=2).tolist()
    assert len(rows.sample_rows(dataset, "test", 1000)) == 150
    model = random_model(dataset)
    several = [similarity.similarity(model, dataset, max_rows=30, seed=seed)[0, 1] for seed in range(2)]
    assert several[0] != several[1]


def test_rows_without_a_history_are_not_sampled(dataset: SequenceDataset) -> None:
    places = np.array(dataset.rows("test"))
    places[1:, 1] = 0
    only = replace(dataset, split_rows={**dataset.split_rows, "test": places})
    assert rows.sample_rows(only, "test", 5).tolist() == [0]
    places[0, 1] = 0
    with pytest.raises(UserError, match="no test rows with a history"):
        rows.sample_rows(only, "test", 5)


# ranks


def test_the_distribution_of_ranks_is_worked_out_by_hand() -> None:
    first, second = ranks.distribution([[0, 0], [9, 4], [200, 300], [19.5, 1]])
    assert (first["step"], second["step"]) == (0, 1)
    assert [first[f"top_{k}"] for k in (1, 5, 10, 20, 50, 100)] == [0.25, 0.25, 0.5, 0.75, 0.75, 0.75]
    assert [second[f"top_{k}"] for k in (1, 5, 10, 20, 50, 100)] == [0.25, 0.75, 0.75, 0.75, 0.75, 0.75]
    assert (first["rank_50"], second["rank_50"]) == ((10 + 20.5) / 2, (2 + 5) / 2)
    assert first["mrr"] == pytest.approx((1 + 1 / 10 + 1 / 201 + 1 / 20.5) / 4)
    assert (first["better"], first["worse"], second["better"], second["worse"]) == (0, 0, 0.5, 0.25)


def test_ranks_by_step_are_those_of_the_evaluation(dataset: SequenceDataset) -> None:
    model = random_model(dataset, "erl")
    for found, expected in zip(
        ranks.rank_by_step(model, dataset), steps.metrics_by_step(model, dataset)["by_step"], strict=True
    ):
        assert (found["step"], found["mrr"], found["mrr_se"]) == tuple(expected[k] for k in ("step", "mrr", "mrr_se"))
        assert found["top_10"] == expected["recall@10"] and found["top_20"] == expected["recall@20"]


# pages


def test_every_page_has_a_table_and_a_figure(dataset: SequenceDataset, trained: ReaRec, tmp_path: Path) -> None:
    models = {"prl": trained, "erl": random_model(dataset, "erl")}
    page = Page(tmp_path, "all", "All")
    steps.page(page, {name: steps.metrics_by_step(model, dataset) for name, model in models.items()})
    found = {name: ranks.rank_by_step(model, dataset) for name, model in models.items()}
    ranks.page(page, found, seen="kept")
    similarity.page(page, {name: similarity.similarity(model, dataset) for name, model in models.items()})
    latency.page(page, {"prl": latency.latency(trained, dataset, rows=4, repeats=2)}, device="a CPU")
    case.page(page, case.cases(models["erl"], dataset, count=2), seen="kept")
    page.write()
    for name in ("steps", "ranks", "similarity", "latency", "case"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) > 1
        assert f"![{name}]({name}.png)" in page.markdown
    with (tmp_path / "steps.csv").open() as file:
        read = list(csv.DictReader(file))
    states = ["step 0", "step 1", "step 2", "answer"]
    assert [row["state"] for row in read] == [*states, *states, *FLOORS]
    assert read[0]["ndcg@20 over step 0, low"] == "" != read[1]["ndcg@20 over step 0, low"]
    assert float(read[7]["mrr"]) == evaluate(models["erl"], dataset)["mrr"] != float(read[6]["mrr"])
    with (tmp_path / "similarity.csv").open() as file:
        read = list(csv.DictReader(file))
    assert float(read[0]["to step 1"]) == similarity.similarity(trained, dataset)[0, 1]

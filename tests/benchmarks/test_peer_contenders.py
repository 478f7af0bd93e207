"""The contenders of benchmarks/peers.py that are ours, their clock, their data, and the evaluator of everybody's lists.

The modules of the other libraries run where these are installed alone.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from typing import Any

import numpy as np
import peers
import pytest
import torch
from contenders.libraries import clock as clocks
from contenders.libraries import ours, plain, quality
from contenders.libraries import watch as watches
from contenders.libraries.clock import StepClock
from contenders.libraries.contender import best_lists, lists_of
from contenders.libraries.entries import ENTRIES
from contenders.libraries.ranks import mean_gain, ranks, without
from contenders.libraries.run import run
from contenders.libraries.task import Sequences, Sizes, Task
from contenders.libraries.watch import Watch

from rearec.data.synthetic import paper_shaped
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.evaluation.floors import baseline_ranks
from rearec.reasoning import ReaRec
from rearec.training.presets import best_settings


def sequences_from(*histories: list[int], num_items: int) -> Sequences:
    offsets = np.cumsum([0, *map(len, histories)])
    return Sequences(np.concatenate([np.array(h, dtype=np.int64) for h in histories]), offsets, num_items)


# The clock


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Time that passes when it is told to."""
    now = {"cpu": 0.0, "wall": 0.0}
    monkeypatch.setattr(clocks, "processor_seconds", lambda: now["cpu"])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now["wall"])
    return now


def test_a_step_lasts_until_the_next_one_begins(ticking: dict[str, float]) -> None:
    clock = StepClock(skipped=1, least=2, seconds=5.0)
    enough = []
    for cpu, targets in [(0, 100), (1, 10), (3, 20), (6, 40), (50, 80)]:
        ticking["cpu"], ticking["wall"] = cpu, 2.0 * cpu
        enough.append(clock.step(targets))
    # the first step does not count, nor what follows once two steps and five seconds were measured
    assert enough == [False, False, False, True, True]
    assert clock.record() == {"steps": 2, "targets": 30, "cpu_s": 5.0, "wall_s": 10.0}


def test_what_lies_between_epochs_does_not_count(ticking: dict[str, float]) -> None:
    clock = StepClock(skipped=0, least=9, seconds=0)
    clock.step(10)
    ticking["cpu"] = 1.0
    clock.pause()
    ticking["cpu"] = 100.0
    clock.pause()
    clock.step(5)
    ticking["cpu"] = 102.0
    clock.pause()
    assert clock.record() == {"steps": 2, "targets": 15, "cpu_s": 3.0, "wall_s": 0.0}


def test_a_copy_of_the_clock_is_the_clock() -> None:
    clock = StepClock(0, 1, 0)
    assert copy.deepcopy({"callbacks": [clock]})["callbacks"][0] is clock
    with pytest.raises(ValueError, match="before a step could be measured"):
        clock.record()


def test_processor_time_and_memory_are_those_of_this_process() -> None:
    before, memory = clocks.processor_seconds(), clocks.peak_memory()
    held = bytearray(os.urandom(1 << 20)) * 64
    assert clocks.processor_seconds() > before
    assert clocks.peak_memory() >= memory > 2**20 and clocks.peak_memory() >= len(held)


# The data


def test_sequences_keep_what_a_dataset_splits(sequences: Sequences) -> None:
    dataset = paper_shaped(60, 80, 9.0)
    assert sequences.train_targets == len(dataset.rows("train"))
    again = ours.dataset_of(sequences)
    for split in ("train", "valid", "test"):
        assert np.array_equal(np.sort(again.targets(split)), np.sort(dataset.targets(split)))
        for (s, p), (s2, p2) in zip(again.rows(split)[:9], dataset.rows(split)[:9], strict=True):
            assert np.array_equal(again.history(s, p), dataset.history(s2, p2))


def test_users_drawn_keep_their_sequences() -> None:
    some = sequences_from([5, 3, 9, 3], [1, 2, 3], [9, 8, 9, 7, 5], num_items=10).some(2, seed=3)
    assert some.num_users == 2 and some.num_items == len(np.unique(some.items))
    assert {len(some.history(user)) for user in range(2)} < {2, 3, 4}
    same = sequences_from([5, 3, 9, 3], [1, 2, 3], [9, 8, 9, 7, 5], num_items=10).some(2, seed=3)
    assert np.array_equal(some.items, same.items)


@pytest.mark.parametrize("split", ["ratio", "short"])
def test_another_split_is_refused(split: str) -> None:
    dataset = paper_shaped(20, 30, 6.0)
    rows = dict(dataset.split_rows)
    if split == "ratio":
        rows["test"] = np.concatenate([rows["test"], rows["valid"]])
        bad = replace(dataset, split_rows=rows)
        with pytest.raises(UserError, match="the test rows are not their users' last items: prepare with --split"):
            peers.sequences_of(bad)
    else:
        with pytest.raises(ValueError, match="each of 3 items or more"):
            sequences_from([1, 2], num_items=3)


def test_batches_are_alike_in_users_and_rows() -> None:
    short = sequences_from(*[[0, 1, 2, 3, 4, 5, 6, 7, 8]] * 1500, num_items=9)  # six predictions each
    assert (Sizes().batch_users(short), Sizes().batch_rows(short)) == (128, 768)
    long = sequences_from(*[[*range(1003)]] * 200, num_items=1003)  # a library that learns the last 50 has 50
    assert (Sizes().batch_users(long), Sizes().batch_rows(long)) == (16, 800)
    few = sequences_from(*[[0, 1, 2, 3, 4]] * 40, num_items=5)  # an epoch shall have some batches
    assert (Sizes().batch_users(few), Sizes().batch_rows(few)) == (4, 8)


def test_a_task_survives_its_way_into_another_process(task: Task) -> None:
    assert Task.from_json(task.to_json()) == task


# The contenders that are ours


def said(task: Task) -> dict[str, Any]:
    """All that a process would say, epochs as a curve."""
    record: dict[str, Any] = {"curve": []}

    def say(part: dict[str, Any]) -> None:
        record["curve"] += [part.pop("epoch")] if "epoch" in part else []
        record.update(part)

    run(task, say)
    return record


SPEED = [n for n, e in ENTRIES.items() if e.module in ("ours", "plain") and "speed" in e.kinds and "bf16" not in n]


@pytest.mark.parametrize("name", SPEED)
def test_speed_of_ours(name: str, task: Task, sequences: Sequences) -> None:
    entry = ENTRIES[name]
    record = said(replace(task, contender=entry.module, options=dict(entry.options)))
    training = record["training"]
    assert training["steps"] >= 2 and 0 < training["targets"] <= training["steps"] * 2 * task.sizes.batch_rows(
        sequences
    )
    assert training["cpu_s"] > 0 and record["answers"]["users"] == sequences.num_users
    assert record["one_user"]["cpu_ms"] > 0 and record["versions"]["torch"]


def test_lists_give_the_metrics_of_the_package(task: Task, sequences: Sequences) -> None:
    """An evaluation of exported lists is the package's evaluation by rank, and so is the choice of the best epoch."""
    record = said(replace(task, epochs=2, options={"method": "base"}))
    trained = record["trained"]
    assert trained["epochs"] == len(record["curve"]) == 2 and trained["best_epoch"] in (1, 2) and record["done"]
    assert trained["cpu_s"] >= record["curve"][1]["cpu_s"] > record["curve"][0]["cpu_s"] > 0
    found = quality.metrics(quality.ranks_of(np.load(record["lists"][""]), sequences))
    model = ReaRec.from_pretrained(task.folder / "run")
    for how in ("seen_kept", "seen_removed"):
        expected = evaluate(model, ours.dataset_of(sequences), "test", exclude_seen=how == "seen_removed", floors=False)
        for name in ("ndcg@10", "recall@10", "ndcg@20", "recall@20"):
            assert found[how][name] == pytest.approx(expected[name], abs=1e-6)
    contender = ours.make(replace(task, options={"method": "base"}), sequences)
    contender.recommender = ours.Recommender(task.folder / "run")  # type: ignore[attr-defined]
    valid = mean_gain(best_lists(contender, sequences, "valid", 20), sequences, "valid", task.gains)
    assert valid == pytest.approx(trained["valid_ndcg@20"], abs=1e-6)


def test_a_recipe_of_ours_is_the_preset(task: Task, sequences: Sequences) -> None:
    config, training = ours.settings(replace(task, options=dict(ENTRIES["rearec prl, recipe"].options)), sequences)
    usual = best_settings("sasrec", "prl")
    assert (config.steps, config.dropout, config.dim) == (usual["steps"], usual["dropout"], usual["dim"])
    assert (training["lr"], training["batch_rows"]) == (usual["lr"], usual["batch_rows"])


def test_a_run_that_is_given_takes_part(task: Task, sequences: Sequences) -> None:
    first = said(replace(task, epochs=2, options={"method": "base"}))
    run_folder = (task.folder / "run").rename(task.folder / "given")
    again = said(replace(task, contender="given", epochs=2, options={"run": str(run_folder)}))
    assert again["trained"]["valid_ndcg@20"] == pytest.approx(first["trained"]["valid_ndcg@20"], abs=1e-6)
    assert again["trained"]["cpu_s"] is None and again["trained"]["given"] == "given" and again["curve"] == []


def test_plain_answers_as_ours_does(task: Task, sequences: Sequences) -> None:
    """Both make their model from the same seed."""
    users = np.random.default_rng(1).permutation(sequences.num_users)
    answers = []
    for module in (ours, plain):
        contender = module.make(replace(task, options={"method": "base"}), sequences)
        lists = contender.lists(contender.request(users, 20)(), users, 20)
        answers.append(lists)
    assert (answers[0] == answers[1]).mean() > 0.95  # items whose scores tie to rounding aside


# The evaluator


def test_seen_items_leave_the_lists_and_targets_stay() -> None:
    two = sequences_from([0, 1, 2, 3], [4, 5, 4], num_items=30)  # the second user's target is in his history
    lists = np.array([[0, 3, 1, -1], [5, 4, 9, -1]])
    assert without(lists, two)[:, :3].tolist() == [[3, -1, -1], [4, 9, -1]]
    found = quality.metrics(quality.ranks_of(lists, two))
    gain = 1 / np.log2(3)
    assert found["seen_kept"]["ndcg@10"] == pytest.approx(gain) and found["seen_removed"]["ndcg@10"] == 1.0
    # before the validation targets 2 and 5 nothing that is in the lists was seen but 1, and 5 comes first
    assert mean_gain(lists, two, "valid", (1.0, 0.5)) == 0.5
    assert without(lists, two, "valid", 2).tolist() == [[3, -1], [5, 9]]


def test_ranks_are_places_in_the_lists() -> None:
    targets = np.array([7, 7, 7])
    lists = np.stack([np.roll(np.arange(40), shift) for shift in (0, 8, 30)])
    assert ranks(lists, targets).tolist() == [7, 15, np.inf]
    assert quality.gains_of_places()[1] == pytest.approx(1 / np.log2(3)) and len(quality.gains_of_places()) == 20


@pytest.mark.parametrize(
    ("lists", "why"), [([[1, 1]] * 2, "holds an item twice"), ([[1, 2]], "lists of 1 users, expected 2")]
)
def test_unsound_lists_are_refused(lists: list[list[int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        quality.ranks_of(np.array(lists), sequences_from([0, 1, 2], [0, 1, 2], num_items=3))


def test_who_has_no_sound_lists_has_failed_and_keeps_its_curve() -> None:
    two = sequences_from([0, 1, 2], [0, 1, 2], num_items=3)
    curve = [{"epoch": 1, "cpu_s": 2.0, "valid_ndcg@20": 0.25}]
    trained = {"valid_ndcg@20": 0.5}
    outcome = peers.Evaluated(
        {
            "sound": [{"lists": {"": np.array([[2, 1], [0, 1]])}, "trained": trained}],
            "twice": [{"lists": {"": np.array([[1, 1], [0, 1]])}, "trained": trained}],
            "none": [{"curve": curve}],
        },
        {"none": "exit status 1: it broke"},
    )
    found = peers.evaluate(outcome, two, {"rules": {how: np.array([0.0, np.inf]) for how in quality.HOW}})
    assert {*found["quality"]} == {"sound", "rules"}
    assert found["quality"]["sound"]["seen_kept"]["recall@10"] == 0.5
    assert outcome.failed == {
        "none": "exit status 1: it broke",
        "twice": "no lists that could be evaluated: a list holds an item twice",
    }
    assert outcome.records["none"][0]["curve"] == curve


def test_all_are_compared_with_the_best_by_validation_of_each_reference() -> None:
    valid = {"rearec base": 0.3, "rearec base + graph": 0.3, "rearec prl": 0.2, "RecTools a": 0.1, "RecTools b": 0.4}
    assert quality.references(valid) == ["rearec base", "RecTools b"]
    up, down = np.zeros(50), np.full(50, np.inf)
    down[:10] = 0
    found = {name: {how: rank for how in quality.HOW} for name, rank in (("rearec base", up), ("RecTools b", down))}
    over = quality.compared(found, ["rearec base", "RecTools b"])
    assert [*over["rearec base"]] == ["RecTools b"] and over["rearec base"]["RecTools b"]["ndcg@20"].startswith("+400")
    assert over["RecTools b"]["rearec base"]["recall@20"].startswith("-80")


def test_the_floors_are_those_of_the_package(sequences: Sequences) -> None:
    dataset = ours.dataset_of(sequences)
    found = quality.floors(dataset)
    assert {*found} == {"popularity", "markov", "itemknn", "rules"}
    expected = baseline_ranks(dataset, "test", exclude_seen=True)["rules"]
    inside = expected < 20
    assert np.array_equal(found["rules"]["seen_removed"][inside], expected[inside])
    assert np.isinf(found["rules"]["seen_removed"][~inside]).all()


def test_long_answers_become_lists() -> None:
    found = lists_of([8, 8, 3, 8], [1, 2, 3, 4], np.array([3, 8, 5]), 2)
    assert found.tolist() == [[3, -1], [1, 2], [-1, -1]]


# The watch


class Stub:
    """Validates by script: a target at the place that is told, or nowhere."""

    def __init__(self) -> None:
        self.layer = torch.nn.Linear(1, 1)

    def module(self) -> torch.nn.Module:
        return self.layer


def watched(task: Task, sequences: Sequences, values: list[float], **limits: Any) -> tuple[dict[str, Any], list[Any]]:
    said: list[Any] = []
    stub = Stub()
    watch = Watch(stub, sequences, replace(task, **{"epochs": 9, **limits}), said.append)  # type: ignore[arg-type]
    for number, value in enumerate(values, 1):
        torch.nn.init.constant_(stub.layer.weight, number)
        if watch.ended(value):
            break
    found = watch.finish()
    return found | {"weight": stub.layer.weight.item()}, said


def test_patience_ends_a_training_and_the_best_weights_come_back(task: Task, sequences: Sequences) -> None:
    found, said = watched(task, sequences, [0.1, 0.3, 0.2, 0.3, 0.9], patience=2)
    assert (found["epochs"], found["best_epoch"], found["ended_by"], found["weight"]) == (4, 2, "patience", 2.0)
    assert [one["epoch"]["valid_ndcg@20"] for one in said] == [0.1, 0.3, 0.2, 0.3]


def test_a_budget_ends_a_training_after_its_epoch(
    task: Task, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([0.0, 4.0, 4.0, 11.0, 11.0, 11.0])
    monkeypatch.setattr(watches, "processor_seconds", lambda: next(now))
    found, said = watched(task, sequences, [0.1, 0.2, 0.3], cpu_seconds=10.0)
    assert (found["epochs"], found["ended_by"]) == (2, "budget")
    assert [one["epoch"]["cpu_s"] for one in said] == [4.0, 11.0]


def test_a_stop_file_ends_a_training_after_its_epoch(task: Task, sequences: Sequences) -> None:
    watch = Watch(Stub(), sequences, replace(task, epochs=9), lambda record: None)  # type: ignore[arg-type]
    assert not watch.ended(0.5)
    (task.folder / "stop").touch()
    assert watch.ended(0.5) and watch.finish()["ended_by"] == "a stop file"

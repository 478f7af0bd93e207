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
from contenders.libraries import clock as clocks
from contenders.libraries import floors, ours, plain, rounds
from contenders.libraries.clock import EndlessClock, StepClock
from contenders.libraries.contender import lists_of
from contenders.libraries.entries import ENTRIES
from contenders.libraries.quality import evaluated, metrics, without
from contenders.libraries.run import run
from contenders.libraries.task import Sequences, Sizes, Task

from rearec.data.synthetic import paper_shaped
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.evaluation.metrics import rank_metrics
from rearec.reasoning import ReaRec


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


@pytest.mark.parametrize("name", [n for n, e in ENTRIES.items() if e.module in ("ours", "plain") and "bf16" not in n])
def test_speed_of_ours(name: str, task: Task, sequences: Sequences) -> None:
    entry = ENTRIES[name]
    record: dict[str, Any] = {}
    for part in run(replace(task, contender=entry.module, options=dict(entry.options))):
        record |= part
    training = record["training"]
    assert training["steps"] >= 2 and 0 < training["targets"] <= training["steps"] * 2 * task.sizes.batch_rows(
        sequences
    )
    assert training["cpu_s"] > 0 and record["answers"]["users"] == sequences.num_users
    assert record["one_user"]["cpu_ms"] > 0 and record["versions"]["torch"]


def test_lists_give_the_metrics_of_the_package(task: Task, sequences: Sequences) -> None:
    """An evaluation of exported lists is the package's evaluation by rank."""
    *_, note, lists = run(replace(task, epochs=2, options={"method": "base"}))
    assert note["trained"]["epochs"] == 2 and note["trained"]["best_epoch"] in (1, 2)
    found = evaluated(np.load(lists["lists"]), sequences)
    model = ReaRec.from_pretrained(task.folder / "run")
    expected = evaluate(model, ours.dataset_of(sequences), "test", floors=False)
    for name in ("ndcg@10", "recall@10", "ndcg@20", "recall@20"):
        assert found["seen_kept"][name] == pytest.approx(expected[name], abs=1e-6)
    assert found["seen_removed"]["recall@20"] >= found["seen_kept"]["recall@20"]


def test_plain_answers_as_ours_does(task: Task, sequences: Sequences) -> None:
    """Both make their model from the same seed."""
    users = np.random.default_rng(1).permutation(sequences.num_users)
    answers = []
    for module in (ours, plain):
        contender = module.make(replace(task, options={"method": "base"}), sequences)
        lists = contender.lists(contender.request(users, 20)(), users, 20)
        answers.append(lists)
    assert (answers[0] == answers[1]).mean() > 0.95  # items whose scores tie to rounding aside


@pytest.mark.parametrize(
    ("options", "best"), [({}, [[0, 1, 2, 3]] * 2), ({"markov": True}, [[0, 2, 1, 3], [0, 1, 2, 3]])]
)
def test_floors_learn_from_training_items_alone(options: dict[str, Any], best: list[list[int]], task: Task) -> None:
    """In training 0, 1, 2 and 0, 1, 0, 1: followers by how often, the rest by popularity, ties by id."""
    two = sequences_from([0, 1, 2, 1, 3], [0, 1, 0, 1, 2, 3], num_items=4)
    floor = floors.make(replace(task, options=options), two)
    floor.train(1, EndlessClock())
    # the histories end with 1, which 2 and 0 followed once each, and with 2, which nothing followed
    assert floor.lists(floor.request(np.arange(2), 4)(), np.arange(2), 4).tolist() == best


# The evaluator


def test_seen_items_leave_the_lists_and_targets_stay() -> None:
    two = sequences_from([0, 1, 2, 3], [4, 5, 4], num_items=30)  # the second user's target is in his history
    lists = np.array([[0, 3, 1, -1], [5, 4, 9, -1]])
    assert without(lists, two)[:, :3].tolist() == [[3, -1, -1], [4, 9, -1]]
    found = evaluated(lists, two)
    gain = 1 / np.log2(3)
    assert found["seen_kept"]["ndcg@10"] == pytest.approx(gain) and found["seen_removed"]["ndcg@10"] == 1.0


def test_metrics_of_lists_are_those_of_ranks() -> None:
    targets = np.array([7, 7, 7])
    lists = np.stack([np.roll(np.arange(40), shift) for shift in (0, 8, 30)])
    expected = rank_metrics([7, 15, 37])
    for name, value in metrics(lists, targets).items():
        assert value == pytest.approx(expected[name])


@pytest.mark.parametrize(
    ("lists", "why"), [([[1, 1]] * 2, "holds an item twice"), ([[1, 2]], "lists of 1 users, expected 2")]
)
def test_unsound_lists_are_refused(lists: list[list[int]], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        evaluated(np.array(lists), sequences_from([0, 1, 2], [0, 1, 2], num_items=3))


def test_who_has_no_sound_lists_has_failed() -> None:
    two = sequences_from([0, 1, 2], [0, 1, 2], num_items=3)
    outcome = rounds.Outcome(
        {
            "sound": [{"lists": np.array([[2, 1], [0, 1]])}],
            "twice": [{"lists": np.array([[1, 1], [0, 1]])}],
            "none": [{"trained": {}}],
        },
        {"none": "exit status 1: it broke"},
    )
    peers.evaluate(outcome, two)
    assert {*outcome.records} == {"sound"} and outcome.records["sound"][0]["quality"]["seen_kept"]["recall@10"] == 0.5
    assert outcome.failed == {
        "none": "exit status 1: it broke",
        "twice": "no lists that could be evaluated: a list holds an item twice",
    }


def test_long_answers_become_lists() -> None:
    found = lists_of([8, 8, 3, 8], [1, 2, 3, 4], np.array([3, 8, 5]), 2)
    assert found.tolist() == [[3, -1], [1, 2], [-1, -1]]

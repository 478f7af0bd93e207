"""The graph as a teacher: which items, how much of each, in every method, and that only training data speaks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rearec.data import ItemGraph, SequenceDataset
from rearec.data.batches import PairBatches
from rearec.data.synthetic import Planted, generate
from rearec.models import ReaRecConfig
from rearec.objectives import loss, soft_targets
from rearec.reasoning import Rollout
from rearec.training import TrainingOptions, fitting_config, train
from rearec.training.teacher import GraphTeacher

R, D, N = 5, 8, 12


def rollout_of(config: ReaRecConfig, neighbors: torch.Tensor | None) -> Rollout:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(R, config.steps + 1, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return Rollout(states.requires_grad_(), weight.requires_grad_(), neighbors=neighbors)


def config_of(method: str, **settings: Any) -> ReaRecConfig:
    given = {"steps": 2, "temperature": 0.7, "alpha": 1.5, "teacher": "graph", "teacher_weight": 0.4} | settings
    return ReaRecConfig(num_items=N, method=method, dim=D, **given)


TARGET = torch.tensor([3, 7, 0, -100, 11])
NEIGHBORS = torch.tensor([[3, 5, 1], [2, 4, -1], [-1, -1, -1], [6, 8, 9], [10, 11, 0]])


def shares(row: int, step: int, steps: int, weight: float, hard: float) -> dict[int, float]:
    """Written out: the target and its neighbours in proportion to exp(-j / (K - t + 1))."""
    target = int(TARGET[row])
    found = {target: 1.0}
    for place, item in enumerate(NEIGHBORS[row].tolist(), start=1):
        if item not in (-1, target):
            found[item] = float(np.exp(-place / (steps - step + 1)))
    total = sum(found.values())
    return {item: weight * share / total + hard * (item == target) for item, share in found.items()}


@pytest.mark.parametrize("hard", [0.0, 1.0])
def test_target_and_neighbours_share_the_weight(hard: float) -> None:
    config = config_of("prl")
    targets = soft_targets(config, rollout_of(config, NEIGHBORS), TARGET, range(3), hard=hard)
    assert targets is not None
    items, mass = targets
    for row in (0, 1, 2, 4):
        for step in range(3):
            expected = shares(row, step, config.steps, 0.4, hard)
            there = items[row] >= 0
            got = dict(zip(items[row][there].tolist(), mass[row, step][there].tolist(), strict=True))
            assert got == pytest.approx(expected, rel=1e-6)
            assert float(mass[row, step][~there].sum()) == 0


def test_later_steps_are_sharper() -> None:
    config = config_of("prl")
    targets = soft_targets(config, rollout_of(config, NEIGHBORS), TARGET, range(3), hard=0.0)
    assert targets is not None
    of_target = targets[1][0, :, 0]
    assert of_target[0] < of_target[1] < of_target[2]


@pytest.mark.parametrize("method", ["base", "naive", "rpe", "erl", "prl"])
def test_losses_and_gradients_equal_the_formulas_written_out(method: str) -> None:
    config = config_of(method)
    rollout = rollout_of(config, NEIGHBORS)
    found = loss(config, rollout, TARGET, torch.arange(R))["loss"]
    gradients = torch.autograd.grad(found, [rollout.states, rollout.weight])
    plain_config = config_of(method, teacher="none")
    plain = rollout_of(config, None)
    without = loss(plain_config, plain, TARGET, torch.arange(R))["loss"]
    kept = [row for row in range(R) if TARGET[row] >= 0]
    steps = range(config.steps + 1) if method in ("erl", "prl") else [config.steps]
    added = plain.states.new_zeros(())
    for step in steps:
        tau = config.temperature * (config.alpha ** (config.steps - step) if method == "prl" else 1.0)
        weight = 1 / len(steps) if method == "erl" else (config.pl_weight / 2 if step < config.steps else 1.0)
        log_p = (plain.states[:, step] @ plain.weight.T / tau).log_softmax(-1)
        for row in kept:
            for item, share in shares(row, step, config.steps, 0.4, 0.0).items():
                added = added - weight * share * log_p[row, item] / len(kept)
    expected = without + added
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    for got, wanted in zip(gradients, torch.autograd.grad(expected, [plain.states, plain.weight]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def test_the_teacher_looks_up_the_neighbours_of_the_last_item() -> None:
    dataset = generate(0, planted=Planted(users=60, themes=2, items_per_theme=4))
    teacher = GraphTeacher(dataset, neighbors=4)
    batch = next(iter(PairBatches(dataset, "train", batch_rows=64, max_len=5, pairing="shared", shuffle=True, seed=1)))
    assert batch.row is not None
    rows = np.asarray(dataset.rows("train"))[batch.row.numpy()]
    last = [int(dataset.history(sequence, position)[-1]) for sequence, position in rows]
    graph = ItemGraph.of(dataset, teacher.options)
    for found, item in zip(teacher(batch).tolist(), last, strict=True):
        strongest = graph.edges(item)[0].tolist()
        assert found == strongest + [-1] * (4 - len(strongest))


def test_a_training_with_a_teacher_is_another_one_and_repeats_itself(tmp_path: Any) -> None:
    dataset = generate(0, planted=Planted(users=40, themes=2, items_per_theme=4))
    options = TrainingOptions(epochs=2, batch_rows=64)

    def trained(name: str, **settings: Any) -> dict[str, Any]:
        config = fitting_config(dataset, method="prl", steps=1, dim=8, ffn=8, layers=1, max_len=8, **settings)
        return train(dataset, tmp_path / name, config, options)

    with_it = trained("a", teacher="graph")
    assert with_it["valid"] == trained("b", teacher="graph")["valid"]
    assert with_it["valid"] != trained("c")["valid"]


def test_items_without_neighbours_and_a_single_item() -> None:
    none = np.empty((0, 2), dtype=np.int32)
    dataset = SequenceDataset(
        items=np.array([0, 0, 0], dtype=np.int32),
        offsets=np.array([0, 3]),
        sequence_user=np.array([0], dtype=np.int32),
        split_rows={"train": np.array([[0, 1], [0, 2]], np.int32), "valid": none, "test": none},
        item_ids=["only"],
        user_ids=["one"],
        statistics={},
    )
    batch = next(iter(PairBatches(dataset, "train", batch_rows=4, max_len=5, pairing="shared")))
    assert GraphTeacher(dataset, neighbors=2)(batch).tolist() == [[-1, -1], [-1, -1]]


def test_cloze_has_no_last_item_to_teach_by() -> None:
    with pytest.raises(ValueError, match="teacher: got 'graph' for cloze, expected 'none'"):
        ReaRecConfig(num_items=5, backbone="bert4rec", training_task="cloze", teacher="graph")

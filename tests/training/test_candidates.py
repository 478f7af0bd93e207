"""Training against a sample of the catalogue: which items, with which probability, and that it repeats itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from rearec.data.synthetic import Planted, generate
from rearec.errors import UserError
from rearec.models import ReaRecConfig
from rearec.objectives import OBJECTIVES, Objective, loss
from rearec.reasoning import Rollout
from rearec.training import TrainingOptions, fitting_config, train
from rearec.training.candidates import CandidateSampler

N, D = 40, 8
TARGET = torch.tensor([31, 7, -100, 7, 0, 39])
NEIGHBORS = torch.tensor([[7, 12], [3, -1], [5, 6], [-1, -1], [0, 39], [12, 3]])
CERTAIN = [0, 7, 31, 39]


def rollout_of(states: int = 1, neighbors: torch.Tensor | None = None) -> Rollout:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(len(TARGET), states, D, generator=generator, dtype=torch.float64)
    weight = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return Rollout(hidden.requires_grad_(), weight.requires_grad_(), neighbors=neighbors)


def items_of(sample: Rollout, whole: Rollout) -> list[int]:
    """The candidates, found by their vectors."""
    return [int((whole.weight == vector).all(1).nonzero()) for vector in sample.weight]


@pytest.mark.parametrize("negatives", [1, 11, 36, 1000])
@pytest.mark.parametrize("neighbors", [None, NEIGHBORS])
def test_targets_and_neighbours_are_certain_the_others_are_drawn(
    negatives: int, neighbors: torch.Tensor | None
) -> None:
    whole = rollout_of(neighbors=neighbors)
    sample, target = CandidateSampler(negatives, seed=0)(whole, TARGET, epoch=0, step=0)
    certain = CERTAIN if neighbors is None else sorted({*CERTAIN, 3, 5, 6, 12})
    items, others = items_of(sample, whole), N - len(certain)
    drawn = min(negatives, others)
    assert items[: len(certain)] == certain
    assert len(items) == len(set(items)) == len(certain) + drawn
    assert sample.log_inclusion is not None
    expected = [0.0] * len(certain) + [math.log(drawn / others)] * drawn
    assert sample.log_inclusion.tolist() == pytest.approx(expected, abs=1e-6)
    for place, item in zip(target.tolist(), TARGET.tolist(), strict=True):
        assert (items[place] if item >= 0 else place) == item
    if neighbors is not None:
        assert sample.neighbors is not None
        found = [[items[place] if place >= 0 else -1 for place in row] for row in sample.neighbors.tolist()]
        assert found == neighbors.tolist()


def test_every_other_item_is_drawn_as_often() -> None:
    whole, counts = rollout_of(), torch.zeros(N)
    sampler = CandidateSampler(9, seed=0)
    for step in range(800):
        counts[items_of(sampler(whole, TARGET, epoch=1, step=step)[0], whole)] += 1
    assert counts[CERTAIN].tolist() == [800] * 4
    others = counts[[item for item in range(N) if item not in CERTAIN]]
    # 36 binomial counts of mean 200 and standard deviation 12: none is five of these off
    assert float((others - 200).abs().max()) < 5 * math.sqrt(800 * 0.25 * 0.75)


def test_a_draw_follows_from_seed_epoch_and_step() -> None:
    whole = rollout_of()

    def drawn(seed: int, epoch: int, step: int) -> list[int]:
        return items_of(CandidateSampler(12, seed)(whole, TARGET, epoch=epoch, step=step)[0], whole)

    assert drawn(1, 2, 3) == drawn(1, 2, 3)
    assert (
        len({tuple(drawn(*given)) for given in [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2), (1, 2, 4)]}) == 6
    )


@pytest.mark.parametrize("teacher", ["none", "graph"])
@pytest.mark.parametrize("method", ["base", "naive", "rpe", "erl", "prl"])
def test_as_many_negatives_as_items_give_the_whole_loss(method: str, teacher: str) -> None:
    config = ReaRecConfig(N, method=method, dim=D, temperature=0.7, teacher=teacher)
    neighbors = NEIGHBORS if teacher == "graph" else None
    whole = rollout_of(config.steps + 1, neighbors)
    sample, target = CandidateSampler(N, seed=0)(whole, TARGET, epoch=0, step=0)
    group = torch.arange(len(TARGET))
    expected, got = loss(config, whole, TARGET, group), loss(config, sample, target, group)
    inputs = [whole.states, whole.weight]
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-9, atol=1e-9)
    gradients = (torch.autograd.grad(terms["loss"], inputs, retain_graph=True) for terms in (got, expected))
    for x, y in zip(*gradients, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-9)


def test_prl_corrects_every_state_at_its_own_temperature() -> None:
    config = ReaRecConfig(N, method="prl", steps=2, dim=D, temperature=0.7, alpha=2.0, step_weights="paper")
    whole = rollout_of(3)
    sample, target = CandidateSampler(9, seed=0)(whole, TARGET, epoch=0, step=0)
    items = items_of(sample, whole)
    expected = 0.0
    for row, own in enumerate(TARGET.tolist()):
        for step in range(3):
            z = (whole.states[row, step] @ whole.weight.T / (0.7 * 2.0 ** (2 - step))).tolist()
            total = sum(math.exp(z[item]) * (1 if item in CERTAIN else 36 / 9) for item in items)
            expected += (math.log(total) - z[own]) / 5 if own >= 0 else 0.0
    assert loss(config, sample, target, torch.arange(6))["loss"].item() == pytest.approx(expected, rel=1e-6)


DATASET = generate(0, planted=Planted(users=40, themes=3, items_per_theme=6))
SMALL: dict[str, Any] = {"dim": 8, "ffn": 8, "layers": 1, "max_len": 8}


def trained(folder: Path, negatives: int, method: str = "base", epochs: int = 2, **settings: Any) -> dict[str, Any]:
    config = fitting_config(DATASET, method=method, **SMALL)
    return train(
        DATASET, folder, config, TrainingOptions(epochs=epochs, batch_rows=32, negatives=negatives), **settings
    )


def test_a_sampled_training_repeats_itself_and_goes_on_as_it_began(tmp_path: Path) -> None:
    whole = trained(tmp_path / "a", 3)
    trained(tmp_path / "b", 3, epochs=1)
    assert trained(tmp_path / "b", 3, resume=True)["valid"] == whole["valid"]
    assert trained(tmp_path / "c", 4)["valid"] != whole["valid"]
    with pytest.raises(UserError, match="was started with training option negatives = 3, not 4"):
        trained(tmp_path / "b", 4, resume=True)


@pytest.mark.parametrize("method", ["erl", "prl"])
def test_reasoning_methods_train_on_a_sample(method: str, tmp_path: Path) -> None:
    assert trained(tmp_path / "run", 3, method, epochs=1)["valid"]["rows"] > 0


def test_an_objective_of_ones_own_reads_all_scores(tmp_path: Path) -> None:
    config = fitting_config(DATASET, method="own", steps=1, **SMALL)
    own = Objective(loss=OBJECTIVES["base"].loss)
    with pytest.raises(UserError, match="--negatives: got 5 for the method own, expected 0: an objective of one's own"):
        train(DATASET, tmp_path / "run", config, TrainingOptions(negatives=5), objective=own)

"""States in bfloat16: what the option of an engine computes, where it is handed on, and what is said of it."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import HISTORIES, batch_of, dataset_of, model_of, recommender_of

from rearec.engine import Engine, precision
from rearec.errors import UserError
from rearec.evaluation import evaluate, rank_rows
from rearec_kernels import build_info

SLOW = "precision 'bf16': this processor has no products of bfloat16, so that 'fp32' is faster here"
pytestmark = pytest.mark.filterwarnings("ignore:precision 'bf16'")


@pytest.mark.parametrize("method", ["base", "prl"])
def test_states_are_within_the_rounding_of_float32_ones(method: str) -> None:
    model, batch = model_of(method, torch.float32, dim=64), batch_of([3, 20, 1])
    engine, states = Engine(model, precision="bf16"), Engine(model)(batch).states
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = model(batch).states
    rollout = engine(batch)
    assert rollout.states.dtype == rollout.weight.dtype == torch.float32
    assert torch.equal(rollout.states, expected)  # of PyTorch's own autocast
    off = (rollout.states - states).abs().max() / states.abs().max()
    assert 2**-13 < off < 2**-5  # a rounding is 2^-9, and every layer has some
    assert torch.equal(rollout.weight, model.item_tables()[1])  # scored with as it is


def test_a_graph_keeps_the_precision_and_a_copy_too() -> None:
    batch = batch_of([3, 9, 1])
    engine = Engine(model_of(dtype=torch.float32), precision="bf16", capture=lambda run: run)
    expected = [engine(batch).states for _ in range(3)][-1]
    assert engine.num_graphs == 1
    assert copy.deepcopy(engine).precision == "bf16"
    torch.testing.assert_close(copy.deepcopy(engine)(batch).states, expected)


def test_answers_and_ranks_are_those_of_its_states() -> None:
    model = model_of(dtype=torch.float32)
    plain, rounded = recommender_of(model), recommender_of(model, precision="bf16")
    vectors = rounded.encode(HISTORIES)
    assert not np.array_equal(vectors, plain.encode(HISTORIES))
    scores = vectors @ rounded.item_vectors.T
    for row, answer in enumerate(rounded.recommend(HISTORIES, k=3)):
        np.testing.assert_allclose(answer.scores, np.sort(scores[row])[::-1][:3], rtol=1e-5)
    dataset = dataset_of(300)
    ranks = [rank_rows(model, dataset, "test", precision=word).final for word in ("fp32", "bf16")]
    assert 0 < np.mean(ranks[0] != ranks[1]) < 0.3 and np.abs(ranks[0] - ranks[1]).max() <= 2
    assert evaluate(model, dataset, precision="bf16", floors=False)["precision"] == "bf16"


def test_an_unknown_precision_is_refused() -> None:
    model: Any = model_of(dtype=torch.float32)
    word: Any = "fp8"
    for call in (
        lambda: Engine(model, precision=word),
        lambda: recommender_of(model, precision=word),
        lambda: evaluate(model, dataset_of(3), precision=word),
    ):
        with pytest.raises(UserError, match=r"^precision: got 'fp8', expected fp32 or bf16$"):
            call()


@pytest.mark.parametrize(("tiles", "pays"), [("amx", True), ("neon_bf16", True), ("portable", False), ("none", False)])
def test_it_says_where_it_does_not_pay(tiles: str, pays: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "build_info", lambda: {"tiles": tiles})
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        Engine(model_of(dtype=torch.float32), precision="bf16")
        Engine(model_of(dtype=torch.float32))
    assert [str(warning.message) for warning in found] == [] if pays else [SLOW]


def test_the_commands_take_it(run_folder: Path, call_rearec: Any, run_rearec: Any) -> None:
    slow = {"REAREC_CPU_ISA": "baseline"} if build_info()["native"] else {}  # nowhere with products of bfloat16
    measured = run_rearec("evaluate", run_folder, "--precision", "bf16", "--json", **slow)
    assert measured.returncode == 0 and json.loads(measured.stdout)["precision"] == "bf16", measured.stderr
    answered = call_rearec("recommend", run_folder, "item-001", "--precision", "bf16", "--json")
    assert answered.returncode == 0 and len(json.loads(answered.stdout)["items"]) == 10, answered.stderr
    assert measured.stderr.count(f"warning: {SLOW}\n") == 1
    for command in (["evaluate", run_folder], ["recommend", run_folder, "item-001"]):
        refused = call_rearec(*command, "--precision", "fp8")
        assert refused.returncode == 2 and "fp8" in refused.stderr and "bf16" in refused.stderr

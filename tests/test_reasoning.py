"""The rollout: one token per step over the cached prefix equals recomputing everything, and no row sees too much."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import pytest
import torch
from recomputed import all_recomputed, history_of, recomputed_states
from torch import Tensor

from rearec.data.batch import Batch
from rearec.data.batches import PairBatches, collate_histories
from rearec.data.dataset import SequenceDataset
from rearec.models import ReaRecConfig
from rearec.models.config import METHODS
from rearec.models.encoder import EncodedPrefix
from rearec.reasoning import ReaRec
from rearec_kernels import PrefixRows, ReasoningCache, available_backends

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")

Pairing = Literal["shared", "separate"]

NUM_ITEMS, MAX_LEN = 13, 6
SEQUENCES = [[3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5, 8, 9, 7, 9], [12, 11], [0, 0, 7, 10]]


def model_of(method: str = "prl", steps: int = 2, dtype: torch.dtype = torch.float64, **settings: Any) -> ReaRec:
    """A small model in evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    config = ReaRecConfig(
        num_items=NUM_ITEMS,
        method=method,
        steps=steps,
        dim=8,
        ffn=12,
        max_len=MAX_LEN,
        **settings,
    )
    model = ReaRec(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def dataset_of(sequences: list[list[int]]) -> SequenceDataset:
    """All (prefix, next item) pairs of the sequences as training rows."""
    rows = [(s, position) for s, items in enumerate(sequences) for position in range(1, len(items))]
    none = np.empty((0, 2), dtype=np.int32)
    return SequenceDataset(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.cumsum([0, *map(len, sequences)]),
        sequence_user=np.arange(len(sequences), dtype=np.int32),
        split_rows={"train": np.array(rows, dtype=np.int32), "valid": none, "test": none},
        item_ids=[str(item) for item in range(NUM_ITEMS)],
        user_ids=[str(user) for user in range(len(sequences))],
        statistics={},
    )


def batch_of(pairing: Pairing, sequences: list[list[int]] = SEQUENCES) -> Batch:
    """All pairs in one batch."""
    (batch,) = PairBatches(dataset_of(sequences), "train", batch_rows=1000, max_len=MAX_LEN, pairing=pairing)
    return batch


@pytest.mark.parametrize("pairing", ["shared", "separate"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_rollout_equals_recomputing_the_whole_sequence_at_every_step(
    pairing: Pairing, method: str, steps: int
) -> None:
    model, batch = model_of(method, steps), batch_of(pairing)
    states = model(batch).states
    torch.testing.assert_close(states, all_recomputed(model, batch), rtol=1e-10, atol=1e-10)


def test_the_rollout_is_the_same_in_float32_with_and_without_gradients() -> None:
    model, batch = model_of(steps=3, dtype=torch.float32), batch_of("shared")
    with torch.no_grad():
        without_grad = model(batch).states
        expected = all_recomputed(model, batch)
    torch.testing.assert_close(without_grad, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(batch).states.detach(), without_grad, rtol=1e-6, atol=1e-6)
    with torch.inference_mode():
        torch.testing.assert_close(model(batch).states.clone(), without_grad, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 2])
def test_a_row_sees_nothing_after_its_own_position_and_nothing_of_other_windows(steps: int) -> None:
    model, batch = model_of(steps=steps), batch_of("shared")
    states = model(batch).states
    for window in range(batch.num_windows):
        for slot in range(batch.items.shape[1]):
            items = batch.items.clone()
            items[window, slot] = (items[window, slot] + 1) % NUM_ITEMS
            moved = (model(dataclasses.replace(batch, items=items)).states != states).flatten(1).any(1)
            sees = (batch.row_prefix == window) & (batch.end > slot)
            assert torch.equal(moved, sees)


def test_rows_do_not_see_each_others_reasoning_tokens() -> None:
    model, batch = model_of(steps=3), batch_of("shared")
    states = model(batch).states
    for row in range(batch.num_rows):
        alone = model(collate_histories([history_of(batch, row).numpy()], MAX_LEN)).states
        torch.testing.assert_close(states[row : row + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_without_steps_every_method_equals_base(method: str) -> None:
    batch = batch_of("shared")
    base, model = model_of("base"), model_of(method, steps=2)
    model.backbone.load_state_dict(base.backbone.state_dict())
    rollout = model(batch, steps=0, return_noised=True)
    expected = base(batch).states
    assert expected.shape == (batch.num_rows, 1, 8)
    assert torch.equal(rollout.states, expected)
    assert torch.equal(model.final_state(rollout.states), base.final_state(expected))
    assert rollout.noised is not None
    assert rollout.noised.shape == (batch.num_rows, 0, 8)


def test_fewer_steps_are_the_first_steps() -> None:
    model, batch = model_of(steps=3), batch_of("shared")
    states = model(batch).states
    for steps in range(4):
        torch.testing.assert_close(model(batch, steps=steps).states, states[:, : steps + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("method", "steps"), [("prl", 3), ("prl", -1), ("naive", 3), ("base", 1)])
def test_other_steps_than_the_trained_ones_are_refused(method: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps: got {steps}, expected 0.."):
        model_of(method, steps=2)(batch_of("shared"), steps=steps)


@pytest.mark.parametrize("method", ["naive", "prl"])
def test_without_noise_the_noised_branch_equals_the_clean_one(method: str) -> None:
    model, batch = model_of(method, steps=3), batch_of("shared")
    rollout = model(batch, noise=0.0, return_noised=True)
    assert rollout.noised is not None
    torch.testing.assert_close(rollout.noised, rollout.states[:, 1:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rollout.states, model(batch).states, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("noised_prefix", ["shared", "own"])
def test_the_noised_branch_feeds_clean_states_plus_noise_into_a_chain_of_its_own(noised_prefix: str) -> None:
    steps, noise = 3, 0.3
    model, batch = model_of(steps=steps, noised_prefix=noised_prefix), batch_of("shared")
    torch.manual_seed(5)
    drawn = [torch.randn(batch.num_rows, 8, dtype=torch.float64) for _ in range(steps)]
    torch.manual_seed(5)
    rollout = model(batch, noise=noise, return_noised=True)
    torch.testing.assert_close(rollout.states, model(batch).states, rtol=1e-12, atol=1e-12)
    expected = []
    for row in range(batch.num_rows):
        row_noise = [noise * step[row] for step in drawn]
        expected.append(recomputed_states(model, history_of(batch, row), steps, row_noise)[1:])
    assert rollout.noised is not None
    torch.testing.assert_close(rollout.noised, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_an_own_prefix_is_seen_by_the_noised_branch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(noised_prefix="own"), batch_of("shared")
    whole = model(batch, noise=0.0, return_noised=True)
    encode = model.backbone.encode

    def encode_without_values_of_the_second_pass(*arguments: Tensor) -> EncodedPrefix:
        prefix = encode(*arguments)
        assert len(prefix.values[0]) == 2 * batch.num_windows
        seen = torch.arange(2 * batch.num_windows) < batch.num_windows
        return dataclasses.replace(prefix, values=tuple(v * seen[:, None, None, None] for v in prefix.values))

    monkeypatch.setattr(model.backbone, "encode", encode_without_values_of_the_second_pass)
    changed = model(batch, noise=0.0, return_noised=True)
    torch.testing.assert_close(changed.states, whole.states, rtol=1e-12, atol=1e-12)
    assert whole.noised is not None and changed.noised is not None
    assert (changed.noised != whole.noised).flatten(1).any(1).all()


@pytest.mark.parametrize(("training", "again"), [(True, 2), (False, 1)])
def test_rows_are_prepared_once_for_all_layers(training: bool, again: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the reasoning steps once per batch; per pass those of the last layer, and in training of every slot."""
    made: list[dict[str, Any]] = []
    init = PrefixRows.__init__
    monkeypatch.setattr(PrefixRows, "__init__", lambda self, **rows: (made.append(rows), init(self, **rows))[1])
    model = model_of(dtype=torch.float32, layers=4, dropout=0.1).train(training)
    batch = batch_of("shared")
    of_encoder = again if "cpu" in available_backends("cpu") else 0
    for of_batch in (1, 0):
        made.clear()
        model(batch)
        assert len(made) == of_batch + of_encoder


def test_the_noised_branch_is_computed_only_when_asked_for() -> None:
    assert model_of()(batch_of("shared"), noise=0.01).noised is None


@pytest.mark.parametrize("method", METHODS)
def test_erl_answers_with_the_mean_of_its_states_and_the_others_with_the_last(method: str) -> None:
    model = model_of(method, steps=3)
    states = torch.randn(5, 4, 8)
    expected = (states[:, 0] + states[:, 1] + states[:, 2] + states[:, 3]) / 4 if method == "erl" else states[:, 3]
    torch.testing.assert_close(model.final_state(states), expected)


@pytest.mark.parametrize("noised", [False, True])
def test_gradients_reach_the_prefix_the_reasoning_positions_and_the_item_table(noised: bool) -> None:
    model, batch = model_of(steps=2), batch_of("shared")
    rollout = model(batch, noise=0.01, return_noised=noised)
    states = rollout.noised if noised else rollout.states[:, 1:]
    assert states is not None
    (states * torch.randn_like(states)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        seen = parameter.grad.flatten(1).any(1) if parameter.ndim > 1 else parameter.grad.any()
        if name.endswith("item_embedding.weight"):
            in_a_history = torch.zeros(NUM_ITEMS, dtype=torch.bool)
            in_a_history[torch.cat([history_of(batch, row) for row in range(batch.num_rows)])] = True
            assert torch.equal(seen, in_a_history), name
        elif not name.endswith("key.bias"):  # which shifts all scores of a query alike: its gradient is 0
            assert seen.all(), name


def test_the_same_seed_gives_every_method_the_same_backbone() -> None:
    def backbone(method: str) -> dict[str, Tensor]:
        torch.manual_seed(3)
        return ReaRec(ReaRecConfig(num_items=5, method=method, dim=8)).backbone.state_dict()

    base = backbone("base")
    for method in METHODS:
        other = backbone(method)
        assert all(torch.equal(base[name], other[name]) for name in base)


def test_reasoning_positions_start_as_small_as_other_embeddings() -> None:
    torch.manual_seed(0)
    embedding = ReaRec(ReaRecConfig(num_items=5, steps=20)).reasoning_position_embedding
    assert embedding is not None
    assert embedding.weight.shape == (20, 256)
    assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.1)


def single_step(model: ReaRec, prefix: EncodedPrefix, batch: Batch, token: Tensor) -> Tensor:
    rows = PrefixRows(end=batch.end, row_prefix=batch.row_prefix)
    caches = [
        ReasoningCache.from_prefix(key, value, max_tokens=1, rows=rows)
        for key, value in zip(prefix.keys, prefix.values, strict=True)
    ]
    return model.backbone.step(token, caches)


def test_attention_probabilities_of_the_reasoning_steps_are_dropped_in_training() -> None:
    model, batch = model_of(dropout=0.5, input_dropout=0.0), batch_of("shared")
    for layer in model.backbone.encoder.layers:
        layer.dropout.p = 0.0  # leaves only the dropout on the probabilities
    prefix = model.backbone.encode(batch.items, batch.row_prefix, batch.end)
    assert torch.equal(
        single_step(model, prefix, batch, prefix.states), single_step(model, prefix, batch, prefix.states)
    )
    model.train()
    steps = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        steps.append(single_step(model, prefix, batch, prefix.states))
    assert torch.equal(steps[0], steps[1])
    assert (steps[0] != steps[2]).any()


def test_input_dropout_reaches_the_reasoning_tokens() -> None:
    model, batch = model_of(dropout=0.0, input_dropout=0.5), batch_of("shared")
    prefix = model.backbone.encode(batch.items, batch.row_prefix, batch.end)
    model.train()
    steps = [single_step(model, prefix, batch, prefix.states) for _ in range(2)]
    assert (steps[0] != steps[1]).any()


def test_bfloat16_autocast_runs_forward_and_backward_close_to_float32() -> None:
    model, batch = model_of(steps=2, dtype=torch.float32), batch_of("shared")
    exact = model(batch, noise=0.0, return_noised=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rollout = model(batch, noise=0.0, return_noised=True)
    assert rollout.noised is not None
    assert rollout.states.dtype == torch.float32
    error = (rollout.states - exact.states).abs().max() / exact.states.abs().max()
    assert 0 < error < 0.05
    (rollout.states.square().sum() + rollout.noised.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), name

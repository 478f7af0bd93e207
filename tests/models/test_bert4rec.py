"""BERT4Rec: equal to recomputing everything under the prefix mask; items see nothing but their row's items.

Both for the next item (h_0 is the last item's state) and for Cloze (h_0 is a mask's).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bert4rec_models import LENGTHS, TASKS, cloze_batch, model_of
from recomputed import all_recomputed, history_of, recomputed_states
from rollouts import HISTORIES, MAX_LEN, NUM_ITEMS, batch_of, dataset_of
from torch import Tensor

import rearec.engine.native
from rearec import Recommender
from rearec.data import load_dataset
from rearec.data.batch import MASK_ID, Batch
from rearec.data.batches import collate_histories
from rearec.engine import Engine
from rearec.evaluation import evaluate, rank_rows
from rearec.models import ReaRecConfig
from rearec.models.bert4rec import BERT4Rec
from rearec.models.config import METHODS
from rearec.models.encoder import EncodedPrefix
from rearec.objectives import loss
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog
from rearec.training import TrainingOptions, train
from rearec_kernels import available_backends, use_backend

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", range(6))
@pytest.mark.parametrize("layers", [1, 3])
def test_the_rollout_equals_recomputing_everything_under_the_prefix_mask(
    task: str, method: str, steps: int, layers: int
) -> None:
    model = model_of(method, steps, layers=layers, training_task=task)
    # rows that share windows, windows without rows, and a window each
    for batch in (batch_of(LENGTHS, rows_per_window=None), batch_of(LENGTHS)):
        torch.testing.assert_close(model(batch).states, all_recomputed(model, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noised_prefix", ["shared", "own"])
@pytest.mark.parametrize("kind", ["next-item", "cloze", "masked"])
def test_the_noised_branch_has_a_chain_of_its_own(noised_prefix: str, kind: str) -> None:
    steps, noise = 3, 0.3
    task = "next-item" if kind == "next-item" else "cloze"
    model = model_of(steps=steps, noised_prefix=noised_prefix, training_task=task)
    batch = cloze_batch(0.1) if kind == "masked" else batch_of(LENGTHS, rows_per_window=None)
    torch.manual_seed(5)
    drawn = [torch.randn(batch.num_rows, 8, dtype=torch.float64) for _ in range(steps)]
    torch.manual_seed(5)
    rollout = model(batch, noise=noise, return_noised=True)
    torch.testing.assert_close(rollout.states, model(batch).states, rtol=1e-12, atol=1e-12)
    slots = [None] * batch.num_rows if batch.slot is None else batch.slot.tolist()
    expected = [
        recomputed_states(model, history_of(batch, row), steps, [noise * step[row] for step in drawn], slot)[1:]
        for row, slot in enumerate(slots)
    ]
    assert rollout.noised is not None
    torch.testing.assert_close(rollout.noised, torch.stack(expected), rtol=1e-10, atol=1e-10)


def encoded(model: ReaRec, batch: Batch) -> EncodedPrefix:
    prefix = model.backbone.encode(batch.items, batch.row_prefix, batch.end)
    assert isinstance(prefix, EncodedPrefix)
    return prefix


def test_items_see_no_reasoning_tokens_and_earlier_tokens_no_later_ones() -> None:
    model, batch = model_of(), batch_of(LENGTHS)
    prefix, tokens = encoded(model, batch), torch.randn(3, batch.num_rows, 8, dtype=torch.float64)
    before = [x.clone() for x in (*prefix.keys, *prefix.values, prefix.states)]

    def states(tokens: Tensor) -> list[Tensor]:
        reason = model.backbone.reason(prefix, batch.row_prefix, batch.end, len(tokens))
        return [reason(token) for token in tokens]

    all_states = states(tokens)
    changed = tokens.clone()
    changed[1, :, 0] += 1  # of all its numbers alike LayerNorm would see nothing
    after_a_change = states(changed)
    assert torch.equal(after_a_change[0], all_states[0])
    assert (after_a_change[1] != all_states[1]).any(1).all()
    assert (after_a_change[2] != all_states[2]).any(1).all()
    assert torch.equal(states(tokens[:1])[0], all_states[0])
    for now, then in zip((*prefix.keys, *prefix.values, prefix.states), before, strict=True):
        assert torch.equal(now, then)


def test_padding_changes_no_key_no_value_and_no_state() -> None:
    model, batch = model_of(), batch_of(LENGTHS)
    items = batch.items.clone()
    items[torch.arange(items.shape[1]) >= batch.lengths[:, None]] = 5
    wider = torch.nn.functional.pad(items[1:2, :12], (0, 3), value=2)
    prefix, other = encoded(model, batch), encoded(model, dataclasses.replace(batch, items=items))
    assert torch.equal(prefix.states, other.states)
    for one, two in zip((*prefix.keys, *prefix.values), (*other.keys, *other.values), strict=True):
        for window, length in enumerate(batch.lengths):
            assert torch.equal(one[window, :length], two[window, :length])
    row = torch.zeros(1, dtype=torch.int32)
    narrow = model.backbone.encode(items[1:2, :12], row, row + 12)
    padded = model.backbone.encode(wider, row, row + 12)
    torch.testing.assert_close(padded.states, narrow.states, rtol=1e-12, atol=1e-12)
    for one, two in zip((*narrow.keys, *narrow.values), (*padded.keys, *padded.values), strict=True):
        torch.testing.assert_close(two[:, :12], one, rtol=1e-12, atol=1e-12)


def test_every_item_sees_all_items_of_its_row_and_none_behind_it() -> None:
    """Of two rows over one window, the later items reach the longer row alone, and all of its keys of layer 2."""
    model, batch = model_of(), collate_histories([[3, 1, 4, 1, 5]], MAX_LEN)
    rows = dataclasses.replace(
        batch, row_prefix=torch.zeros(2, dtype=torch.int32), end=torch.tensor([3, 5], dtype=torch.int32)
    )
    changed = rows.items.clone()
    changed[0, 4] = 9
    other = dataclasses.replace(rows, items=changed)
    moved = (model(rows).states != model(other).states).flatten(1).any(1)
    assert moved.tolist() == [False, True]
    own, theirs = (encoded(model, x.one_window_per_row()) for x in (rows, other))
    differs = (own.keys[1] != theirs.keys[1]).flatten(2).any(2)
    assert not differs[0, :3].any() and differs[1].all()


def test_rows_that_share_a_window_but_not_its_end_are_refused_by_the_encoder() -> None:
    items, end = torch.zeros(1, 3, dtype=torch.int64), torch.tensor([2, 3], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"^end: differs between rows of one window"):
        model_of().backbone.encode(items, torch.zeros(2, dtype=torch.int32), end)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_row_is_the_same_alone_and_in_a_batch(dtype: torch.dtype, task: str) -> None:
    model = model_of("erl", steps=3, dtype=dtype, training_task=task)
    batch = batch_of(LENGTHS, rows_per_window=None)
    precision = 1e-12 if dtype == torch.float64 else 1e-5
    states = model(batch).states
    for row in range(batch.num_rows):
        alone = model(collate_histories([history_of(batch, row).numpy()], MAX_LEN)).states
        torch.testing.assert_close(states[row : row + 1], alone, rtol=precision, atol=precision)


@pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install")
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_the_native_rollout_serves_it(method: str, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    native = rearec.engine.native.reasoning_rollout

    def counted(*arguments: Any, **options: Any) -> Tensor:
        calls.append(options["steps"])
        return native(*arguments, **options)

    monkeypatch.setattr(rearec.engine.native, "reasoning_rollout", counted)
    model = model_of(method, dtype=torch.float32, training_task=task)
    batch = batch_of(LENGTHS, rows_per_window=None)
    with torch.no_grad():
        states = Engine(model)(batch).states
        torch.testing.assert_close(states, all_recomputed(model, batch), rtol=1e-5, atol=1e-5)
    assert calls == ([model.config.steps] if model.config.steps else [])


@pytest.mark.parametrize("method", ["base", "prl"])
@pytest.mark.parametrize("task", TASKS)
def test_gradients_reach_every_parameter(method: str, task: str) -> None:
    model = model_of(method, training_task=task)
    batch = cloze_batch() if task == "cloze" else batch_of(LENGTHS)  # the longest window has all positions
    rollout = model(batch, noise=0.01, return_noised=True)
    (rollout.states * torch.randn_like(rollout.states)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        if name.endswith("item_embedding.weight"):
            seen = torch.zeros(NUM_ITEMS, dtype=torch.bool)
            items = torch.cat([history_of(batch, row) for row in range(batch.num_rows)])
            seen[items[items != MASK_ID]] = True
            assert torch.equal(parameter.grad.any(1), seen)
        elif not name.endswith("key.bias"):  # which shifts all scores of a query alike: its gradient is 0
            assert parameter.grad.flatten(1).any(1).all() if parameter.ndim > 1 else parameter.grad.any(), name


@pytest.mark.skipif("cpu" not in available_backends("cpu"), reason="no native module in this install")
@pytest.mark.parametrize("task", TASKS)
def test_gradients_of_the_training_path_are_those_of_double_precision(task: str) -> None:
    """With dropout of attention, slots go one by one through the native kernel; here it drops one in 2^32."""
    batch = cloze_batch() if task == "cloze" else batch_of(LENGTHS)
    upstream = torch.randn(batch.num_rows, 3, 8, dtype=torch.float64)
    results = []
    for dtype, dropout in ((torch.float64, 0.0), (torch.float32, 0.0), (torch.float32, 1e-12)):
        model = model_of(dtype=dtype, layers=3, dropout=0.0, input_dropout=0.0, training_task=task).train()
        for layer in model.backbone.encoder.layers:
            layer.attention_dropout = dropout
        states = model(batch).states
        # a key's bias shifts all scores of a query alike: its gradient is 0, and what is computed is rounding
        parameters = [parameter for name, parameter in model.named_parameters() if not name.endswith("key.bias")]
        gradients = torch.autograd.grad((states * upstream.to(dtype)).sum(), parameters)
        results.append([states.detach(), *gradients])
    for exact, without, with_dropout in zip(*results, strict=True):
        scale = exact.abs().max()
        error, plain = (((x.double() - exact).abs().max() / scale).item() for x in (with_dropout, without))
        assert error <= max(2 * plain, 2e-6)


def test_attention_probabilities_of_items_are_dropped_in_training() -> None:
    model, batch = model_of("base", dtype=torch.float32, dropout=0.5, input_dropout=0.0), batch_of(LENGTHS)
    for layer in model.backbone.encoder.layers:
        layer.dropout.p = 0.0  # leaves only the dropout on the probabilities
    assert torch.equal(model(batch).states, model(batch).states)
    model.train()
    assert not torch.equal(model(batch).states, model(batch).states)


def test_backends_agree() -> None:
    model, batch = model_of(dtype=torch.float32), batch_of(LENGTHS)
    with use_backend("reference"):
        expected = model(batch).states
    torch.testing.assert_close(model(batch).states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_it_is_saved_and_loaded(task: str, tmp_path: Path) -> None:
    model, batch = model_of("erl", dtype=torch.float32, training_task=task), batch_of(LENGTHS)
    model.save_pretrained(tmp_path / "model")
    loaded = ReaRec.from_pretrained(tmp_path / "model")
    assert loaded.config == model.config
    assert isinstance(loaded.backbone, BERT4Rec)
    assert torch.equal(loaded(batch).states, model(batch).states)


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("task", TASKS)
def test_padded_replays_equal_calling_the_model(task: str) -> None:
    model = model_of("prl", training_task=task)
    rollout = Engine(model, capture=lambda run: run)
    for _ in range(3):
        for lengths in (LENGTHS, [4], [9, 9, 2]):
            batch = batch_of(lengths, rows_per_window=None)
            torch.testing.assert_close(rollout(batch).states, model(batch).states, rtol=1e-12, atol=1e-12)
    assert rollout.num_graphs == 3
    if task == "cloze":  # masks that a batch brings along are for the model
        torch.testing.assert_close(rollout(cloze_batch()).states, model(cloze_batch()).states, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_recommender_and_evaluation_rank_as_the_recomputed_states_do(method: str, task: str) -> None:
    model, dataset = model_of(method, training_task=task), dataset_of(12)
    sequences = np.split(dataset.items.astype(int), dataset.offsets[1:-1])
    ranks, histories = [], []
    with torch.no_grad():
        for items in sequences:
            history = torch.from_numpy(items[:-1][-MAX_LEN:])
            states = recomputed_states(model, history, model.config.steps)
            scores = model.weight @ (states.mean(0) if method == "erl" else states[-1])
            ranks.append(int((scores > scores[items[-1]]).sum()))
            histories.append(([str(item) for item in items[:-1]], scores.argsort(descending=True).tolist()))
    assert rank_rows(model, dataset).final.tolist() == ranks
    ndcg = np.mean([1 / np.log2(rank + 2) if rank < 10 else 0 for rank in ranks])
    assert evaluate(model, dataset, floors=False)["ndcg@10"] == pytest.approx(ndcg, rel=1e-12)
    recommender = Recommender(model, Catalog([str(item) for item in range(NUM_ITEMS)], [1] * NUM_ITEMS))
    answers = recommender.recommend([history for history, _ in histories], k=NUM_ITEMS)
    for answer, (_, best) in zip(answers, histories, strict=True):
        assert [int(item) for item in answer.items] == best
    assert len(recommender.recommend(HISTORIES)) == len(HISTORIES)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_of_every_method_lowers_its_loss(method: str, task: str) -> None:
    model = model_of(method, dtype=torch.float32, training_task=task, temperature=1.0, dropout=0.0, input_dropout=0.0)
    model.train()
    batch = cloze_batch() if task == "cloze" else batch_of(LENGTHS)
    batch = dataclasses.replace(batch, target=batch.items[:, 0][batch.row_prefix].clamp(min=0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(2):
        contrastive = method == "prl"
        rollout = model(batch, return_noised=contrastive)
        terms = loss(model.config, rollout, batch.target, batch.group)
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["loss"].item())
    assert losses[1] < losses[0]


@pytest.mark.parametrize("task", TASKS)
def test_training_lowers_the_loss_and_resumes_to_the_same_numbers(task: str, prepared: Path, tmp_path: Path) -> None:
    dataset = load_dataset(prepared)
    config = ReaRecConfig(
        dataset.num_items, "bert4rec", training_task=task, dim=8, ffn=8, layers=1, max_len=8, warmup=1
    )
    options = TrainingOptions(epochs=2, batch_rows=128, lr=1e-2)
    losses: list[float] = []
    whole = train(
        dataset, tmp_path / "whole", config, options, on_epoch=lambda row: losses.append(row["train_cross_entropy"])
    )
    assert losses[1] < losses[0]

    def interrupt(epoch: int, done: int, total: int) -> None:
        if (epoch, done) == (2, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(dataset, tmp_path / "run", config, options, on_batch=interrupt)
    assert train(dataset, tmp_path / "run", config, options, resume=True) == whole
    trained, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "run"))
    assert trained == resumed

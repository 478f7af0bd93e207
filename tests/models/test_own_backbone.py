"""The encoder of docs/own-backbone.md, as it stands there: a Llama decoder that reasons."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rollouts import MAX_LEN, NUM_ITEMS, STEPS, batch_of, recommender_of
from torch import Tensor
from transformers import LlamaConfig

import rearec
from rearec.data.batch import Batch
from rearec.data.batches import collate_histories
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.models import ReaRecConfig
from rearec.models.backbone import Backbone
from rearec.models.config import METHODS
from rearec.objectives import loss
from rearec.reasoning import ReaRec
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, train

DOC = (Path(__file__).parents[2] / "docs" / "own-backbone.md").read_text(encoding="utf-8")
ENCODER, USE = re.findall(r"```python\n(.*?)```", DOC, flags=re.DOTALL)
NAMES: dict[str, Any] = {}
exec(ENCODER, NAMES)

LENGTHS = [3, 9, 1, MAX_LEN]


def llama(num_items: int = NUM_ITEMS, dim: int = 16, dropout: float = 0.0) -> Backbone:
    config = LlamaConfig(
        vocab_size=num_items,
        hidden_size=dim,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attention_dropout=dropout,
    )
    backbone: Backbone = NAMES["LlamaBackbone"](config)
    return backbone


def model_of(method: str = "prl", steps: int = STEPS, dtype: torch.dtype = torch.float64, **settings: Any) -> ReaRec:
    """In evaluation mode, with weights large enough for attention to matter."""
    torch.manual_seed(0)
    config = ReaRecConfig(
        NUM_ITEMS, backbone="own", method=method, steps=steps, dim=16, max_len=MAX_LEN, alpha=1.5, **settings
    )
    model = ReaRec(config, backbone=llama()).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def history_of(batch: Batch, row: int) -> Tensor:
    return batch.items[batch.row_prefix[row], : batch.end[row]]


def recomputed(model: ReaRec, history: Tensor, noise: list[Tensor] | None = None) -> Tensor:
    """h_0..h_K: at every step items and tokens, without padding, run through the decoder, which keeps no cache."""
    backbone: Any = model.backbone
    clean = recomputed(model, history) if noise is not None else None
    sequence = backbone.item_table()[history]
    states: list[Tensor] = []
    for step in range(model.config.steps + 1):
        inputs = backbone.input_norm(sequence)[None]
        states.append(backbone.decoder(inputs_embeds=inputs, use_cache=False).last_hidden_state[0, -1])
        if step < model.config.steps:
            token = states[-1] if clean is None or noise is None else clean[step] + noise[step]
            if model.reasoning_position_embedding is not None:
                token = token + model.reasoning_position_embedding.weight[step]
            sequence = torch.cat([sequence, token[None]])
    return torch.stack(states)


def test_the_doc_is_short_and_shows_the_protocol_alone() -> None:
    assert len([line for line in ENCODER.splitlines() if line.strip()]) < 40
    assert "own-backbone.md" in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_the_cached_rollout_equals_recomputing_the_whole_sequence(method: str, steps: int) -> None:
    model, batch = model_of(method, steps), batch_of(LENGTHS, rows_per_window=None)
    states = model(batch).states
    expected = torch.stack([recomputed(model, history_of(batch, row)) for row in range(batch.num_rows)])
    assert expected.std(dim=0).mean() > 0.5
    torch.testing.assert_close(states, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noised_prefix", ["shared", "own"])
def test_the_noised_branch_follows_a_chain_of_its_own(noised_prefix: str) -> None:
    model, batch = model_of(noised_prefix=noised_prefix), batch_of(LENGTHS, rows_per_window=None)
    torch.manual_seed(5)
    drawn = [0.3 * torch.randn(batch.num_rows, 16, dtype=torch.float64) for _ in range(STEPS)]
    torch.manual_seed(5)
    rollout = model(batch, noise=0.3, return_noised=True)
    torch.testing.assert_close(rollout.states, model(batch).states, rtol=1e-10, atol=1e-10)
    expected = [
        recomputed(model, history_of(batch, row), [step[row] for step in drawn])[1:] for row in range(batch.num_rows)
    ]
    assert rollout.noised is not None
    torch.testing.assert_close(rollout.noised, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_gradients_of_the_cached_rollout_equal_those_of_recomputing() -> None:
    model, batch = model_of(), batch_of(LENGTHS, rows_per_window=None)
    names = dict(model.named_parameters())
    expected_states = torch.stack([recomputed(model, history_of(batch, row)) for row in range(batch.num_rows)])
    direction = torch.randn_like(expected_states)
    expected = torch.autograd.grad((expected_states * direction).sum(), list(names.values()))
    got = torch.autograd.grad((model(batch).states * direction).sum(), list(names.values()))
    for name, one, other in zip(names, got, expected, strict=True):
        assert other.any(), name
        # Llama's normalisation computes in float32, whatever its input is
        assert (one - other).abs().max() <= 1e-5 * other.abs().max(), name


def test_items_never_see_reasoning_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_of(), batch_of(LENGTHS)
    kept: list[Any] = []
    encode = model.backbone.encode

    def keep(*arguments: Any) -> Any:
        prefix = encode(*arguments)
        kept.append((prefix, [layer.keys.clone() for layer in prefix.cache.layers]))
        return prefix

    monkeypatch.setattr(model.backbone, "encode", keep)
    with torch.no_grad():
        model(batch)
    ((prefix, before),) = kept
    for layer, keys in zip(prefix.cache.layers, before, strict=True):
        assert layer.keys.shape[2] == keys.shape[2] + STEPS
        assert torch.equal(layer.keys[:, :, : keys.shape[2]], keys)


def test_the_rest_of_a_batch_changes_nothing() -> None:
    model, batch = model_of(), batch_of(LENGTHS, rows_per_window=None)
    states = model(batch).states
    other = batch.items.clone()
    for window in range(batch.num_windows):
        seen = batch.end[batch.row_prefix == window]
        other[window, int(seen.max()) if len(seen) else 0 :] = 7
    assert not torch.equal(other, batch.items)
    assert torch.equal(model(replace(batch, items=other)).states, states)
    for row in range(batch.num_rows):
        alone = model(collate_histories([history_of(batch, row).numpy()], MAX_LEN)).states
        torch.testing.assert_close(states[row], alone[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_reaches_every_weight_and_lowers_the_loss(method: str) -> None:
    model = model_of(method, dtype=torch.float32)
    batch = batch_of([3, 9, 1, 5, 7, 2])
    batch = replace(batch, target=torch.arange(6), group=torch.arange(6))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for _ in range(3):
        rollout = model(batch, return_noised=method == "prl", noise=0.0)
        value = loss(model.config, rollout, batch.target, batch.group)["loss"]
        optimizer.zero_grad()
        value.backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[0] > values[1] > values[2]


@pytest.mark.usefixtures("no_gradients")
def test_replayed_passes_equal_calling_the_model() -> None:
    model = model_of()
    recorded: list[Callable[[], Tensor]] = []

    def capture(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
        recorded.append(run)
        return run

    rollout = Engine(model, capture=capture)
    for _ in range(3):
        for lengths in ([3, 1, 6], [12], [2, 2, 2, 2, 2]):
            batch = batch_of(lengths, rows_per_window=None)
            torch.testing.assert_close(rollout(batch).states, model(batch).states, rtol=1e-10, atol=1e-10)
    assert len(recorded) == rollout.num_graphs == 3


def test_a_recommender_answers_with_a_model_object() -> None:
    model = model_of(dtype=torch.float32)
    history = [3, 1, 4, 1, 5]
    answer = recommender_of(model).recommend([list(map(str, history))], k=4)[0]
    with torch.no_grad():
        scores = model(collate_histories([history], MAX_LEN)).states[0, -1] @ model.weight.T
    assert answer.items == [str(item) for item in scores.topk(4).indices.tolist()]


class _Stop(Exception):
    pass


def test_a_killed_training_resumes_and_is_saved_loaded_and_asked_for_items(prepared: Path, tmp_path: Path) -> None:
    dataset = rearec.load_dataset(prepared)
    config = ReaRecConfig(dataset.num_items, backbone="own", method="prl", dim=16, max_len=8, alpha=1.5, warmup=1)
    options = TrainingOptions(epochs=3, batch_rows=256, lr=1e-2)

    def backbone() -> Backbone:
        return llama(dataset.num_items, dropout=0.1)

    whole = train(dataset, tmp_path / "whole", config, options, backbone=backbone)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 2:
            raise _Stop

    with pytest.raises(_Stop):
        train(dataset, tmp_path / "broken", config, options, backbone=backbone, on_epoch=stop)
    resumed = train(dataset, tmp_path / "broken", config, options, backbone=backbone, resume=True)
    assert resumed == whole
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "broken")]
    assert weights[0] == weights[1]

    model = ReaRec.from_pretrained(tmp_path / "whole", backbone=backbone())
    assert evaluate(model, dataset, "test") == whole["test"]
    histories = [["item-001", "item-002"], ["item-003"]]
    by_run = rearec.Recommender(tmp_path / "whole", backbone=backbone()).recommend(histories, k=5)
    by_model = rearec.Recommender(model, RunFolder(tmp_path / "whole").catalog()).recommend(histories, k=5)
    assert by_run == by_model
    copied = copy.deepcopy(model)
    batch = collate_histories([np.array([1, 2, 3])], 8)
    with torch.no_grad():
        assert torch.equal(copied(batch).states, model(batch).states)


def test_the_example_of_use_runs(prepared: Path, tmp_path: Path) -> None:
    code = USE.replace('"data"', repr(str(prepared))).replace('"run"', repr(str(tmp_path / "run")))
    code = code.replace("epochs=20", "epochs=1").replace("B07J3GH1W1", "item-001").replace("B07W397QG4", "item-002")
    names = dict(NAMES)
    exec(code, names)
    (answer,) = names["recommender"].recommend([["item-001", "item-002"]], k=10)
    assert (answer.source, len(answer.items), answer.unknown) == ("model", 10, [])


def test_an_encoder_and_a_config_that_do_not_fit_are_refused(prepared: Path, tmp_path: Path) -> None:
    batch = collate_histories([[1, 2]], MAX_LEN)
    own = ReaRecConfig(NUM_ITEMS, backbone="own", dim=16, max_len=MAX_LEN)
    with pytest.raises(ValueError, match="backbone: got 'own', expected the backbone itself"):
        ReaRec(own)
    with pytest.raises(ValueError, match="backbone: got one beside a config of 'sasrec', expected 'own' there"):
        ReaRec(replace(own, backbone="sasrec"), backbone=llama())
    for encoder in (llama(NUM_ITEMS + 1), llama(dim=24)):
        shape = re.escape(f"[{NUM_ITEMS}, 16]")
        with pytest.raises(ValueError, match=f"backbone: its item table has shape .* of the config, {shape}"):
            ReaRec(own, backbone=encoder)(batch)
    model_of().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"its backbone is 'own', expected the encoder as backbone="):
        ReaRec.from_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"tensor .* has shape .*, expected"):
        ReaRec.from_pretrained(tmp_path, backbone=llama(dim=24))

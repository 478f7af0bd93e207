"""UniSRec and MoRec: items from features of their texts, with every method, and tables that are never stale."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recomputed import all_recomputed, history_of, recomputed_states
from rollouts import HISTORIES, MAX_LEN, NUM_ITEMS, batch_of, recommender_of
from torch import Tensor, nn

from rearec.data.batch import Batch
from rearec.data.batches import collate_histories
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.models import ReaRecConfig
from rearec.models.config import METHODS, TEXT_BACKBONES
from rearec.models.text import TextBackbone
from rearec.objectives import loss
from rearec.reasoning import ReaRec

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")

WIDTH = 7
LENGTHS = [3, 9, 1, MAX_LEN]
BACKBONES = pytest.mark.parametrize("backbone", TEXT_BACKBONES)


def model_of(
    backbone: str, method: str = "prl", steps: int = 2, dtype: torch.dtype = torch.float64, **settings: Any
) -> ReaRec:
    """A small model in evaluation mode, with weights large enough for attention and experts to matter."""
    torch.manual_seed(0)
    fields = {"dim": 8, "ffn": 12, "max_len": MAX_LEN, "alpha": 1.5, "experts": 3, **settings}
    config = ReaRecConfig(NUM_ITEMS, backbone, method, steps, feature_dim=WIDTH, **fields)
    model = ReaRec(config, torch.randn(NUM_ITEMS, WIDTH)).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return model


def text_backbone(model: ReaRec) -> Any:
    assert isinstance(model.backbone, TextBackbone)
    return model.backbone


@BACKBONES
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", range(6))
def test_the_cached_rollout_equals_recomputing_everything(backbone: str, method: str, steps: int) -> None:
    model, batch = model_of(backbone, method, steps), batch_of(LENGTHS, rows_per_window=None)
    expected = all_recomputed(model, batch)
    torch.testing.assert_close(model(batch).states, expected, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():  # the native rollout where it serves, and tables that are kept
        torch.testing.assert_close(model(batch).states.clone(), expected, rtol=1e-10, atol=1e-10)


@BACKBONES
@pytest.mark.parametrize("method", METHODS)
def test_the_native_rollout_of_float32_equals_recomputing_everything(backbone: str, method: str) -> None:
    model, batch = model_of(backbone, method, 3, torch.float32), batch_of(LENGTHS, rows_per_window=None)
    with torch.no_grad():
        torch.testing.assert_close(model(batch).states, all_recomputed(model, batch), rtol=1e-4, atol=1e-4)


@BACKBONES
@pytest.mark.parametrize("noised_prefix", ["shared", "own"])
def test_the_noised_branch_has_a_chain_of_its_own(backbone: str, noised_prefix: str) -> None:
    model, batch = model_of(backbone, noised_prefix=noised_prefix), batch_of(LENGTHS, rows_per_window=None)
    torch.manual_seed(5)
    drawn = [0.3 * torch.randn(batch.num_rows, 8, dtype=torch.float64) for _ in range(2)]
    torch.manual_seed(5)
    rollout = model(batch, noise=0.3, return_noised=True)
    expected = [
        recomputed_states(model, history_of(batch, row), 2, [step[row] for step in drawn])[1:]
        for row in range(batch.num_rows)
    ]
    assert rollout.noised is not None
    torch.testing.assert_close(rollout.noised, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_unisrec_normalises_what_is_scored_and_not_what_is_fed_back() -> None:
    batch = batch_of(LENGTHS)
    model = model_of("unisrec", "erl")
    rollout = model(batch)
    length = rollout.states.norm(dim=-1)
    torch.testing.assert_close(length, torch.ones_like(length))
    torch.testing.assert_close(rollout.weight.norm(dim=-1), torch.ones(NUM_ITEMS, dtype=torch.float64))
    # the mean of unit vectors, not normalised again
    torch.testing.assert_close(model.final_state(rollout.states), rollout.states.mean(dim=1))
    assert (model.final_state(rollout.states).norm(dim=-1) < 0.999).all()
    fed: list[Tensor] = []
    step = text_backbone(model).step
    text_backbone(model).step = lambda token, caches: (fed.append(token), step(token, caches))[1]
    model(batch)
    position = model.reasoning_position_embedding
    assert position is not None and len(fed) == 2
    raw = fed[0] - position.weight[0]
    assert ((raw.norm(dim=-1) - 1).abs() > 0.1).all()
    torch.testing.assert_close(raw / raw.norm(dim=-1, keepdim=True), rollout.states[:, 0])


def test_morec_scores_states_and_items_as_they_are() -> None:
    model, batch = model_of("morec"), batch_of(LENGTHS)
    rollout = model(batch)
    adaptor = text_backbone(model).adaptor
    first, second = adaptor[0], adaptor[3]
    hidden = nn.functional.gelu(text_backbone(model).item_features @ first.weight.T + first.bias)
    torch.testing.assert_close(rollout.weight, nn.functional.gelu(hidden @ second.weight.T + second.bias))
    assert len(model_of("morec", adaptor_layers=3).backbone.adaptor) == 2 + 3 * 3
    assert len(model_of("morec", adaptor_layers=0).backbone.adaptor) == 2


def mixture(adaptor: Any, features: Tensor, noise: Tensor | float = 0.0) -> Tensor:
    """v(x) = sum over experts i of g_i(x) (x - b_i) W_i, item by item."""
    vectors = []
    for x, epsilon in zip(features, torch.as_tensor(noise).expand(len(features), 3), strict=True):
        scale = torch.log1p((x @ adaptor.gate_noise).exp()) + 0.01
        logits = x @ adaptor.gate + epsilon * scale
        gates = logits.exp() / logits.exp().sum()
        experts = zip(gates, adaptor.shift, adaptor.whitening, strict=True)
        vectors.append(sum(gate * ((x - shift) @ whitening) for gate, shift, whitening in experts))
    return torch.stack(vectors)


def test_the_mixture_of_whitenings_is_what_its_formula_says() -> None:
    backbone = text_backbone(model_of("unisrec", adaptor_dropout=0.0))
    adaptor, features = backbone.adaptor, backbone.item_features
    torch.testing.assert_close(adaptor(features), mixture(adaptor, features))
    torch.testing.assert_close(adaptor(features), adaptor(features))
    adaptor.train()
    torch.manual_seed(3)
    epsilon = torch.randn(NUM_ITEMS, 3, dtype=torch.float64)
    torch.manual_seed(3)
    torch.testing.assert_close(adaptor(features), mixture(adaptor, features, epsilon))
    fresh = ReaRec(
        ReaRecConfig(NUM_ITEMS, "unisrec", feature_dim=WIDTH), torch.randn(NUM_ITEMS, WIDTH)
    ).backbone.adaptor
    assert not any(x.any() for x in (fresh.gate, fresh.gate_noise, fresh.shift))


@BACKBONES
@pytest.mark.parametrize("transductive", [False, True])
def test_a_training_pass_draws_once_for_both_sides(backbone: str, transductive: bool) -> None:
    if backbone == "morec" and transductive:
        transductive = False
    model = model_of(backbone, transductive=transductive).train()
    seen: list[Tensor] = []
    encode = model.backbone.encode

    def keep(items: Tensor, row_prefix: Tensor, end: Tensor, table: Tensor) -> Any:
        seen.append(table)
        return encode(items, row_prefix, end, table)

    model.backbone.encode = keep  # type: ignore[method-assign]
    one, other = model(batch_of(LENGTHS)), model(batch_of(LENGTHS))
    assert torch.equal(model.backbone.scored(seen[0]), one.weight)
    assert torch.equal(model.backbone.scored(seen[1]), other.weight)
    assert not torch.equal(one.weight, other.weight)
    model.eval()
    assert torch.equal(model(batch_of(LENGTHS)).weight, model(batch_of(LENGTHS)).weight)


def test_transductive_adds_the_same_id_embeddings_on_both_sides() -> None:
    model = model_of("unisrec", transductive=True)
    backbone = text_backbone(model)
    shown, scored = backbone.item_tables()
    expected = mixture(backbone.adaptor, backbone.item_features) + backbone.item_embedding.weight
    torch.testing.assert_close(shown, expected)
    torch.testing.assert_close(scored, expected / expected.norm(dim=1, keepdim=True))
    assert model_of("unisrec").backbone.item_embedding is None


@BACKBONES
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_the_model_makes_its_tables_of_the_weights_as_they_are(backbone: str, fused: bool, grad: bool) -> None:
    model = model_of(backbone, dtype=torch.float32, experts=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=fused)
    with torch.set_grad_enabled(grad):
        before = model(batch_of(LENGTHS)).weight.detach()
    model.weight.sum().backward()
    optimizer.step()
    with torch.set_grad_enabled(grad):
        after = model(batch_of(LENGTHS)).weight
    assert not torch.equal(after, before)
    assert torch.equal(after, copy.deepcopy(model).weight)


def training_batch() -> Batch:
    batch = batch_of([3, 9, 1, 5, 7, 2])
    return replace(batch, target=torch.arange(6), group=torch.arange(6))


@BACKBONES
@pytest.mark.parametrize("method", METHODS)
def test_a_training_step_reaches_every_parameter_and_lowers_the_loss(backbone: str, method: str) -> None:
    settings = {"dropout": 0.0, "input_dropout": 0.0, "adaptor_dropout": 0.0, "transductive": backbone == "unisrec"}
    model, batch = model_of(backbone, method, dtype=torch.float32, **settings), training_batch()
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    values = []
    for _ in range(3):
        torch.manual_seed(1)  # the same noise of the gate
        rollout = model(batch, noise=0.01, return_noised=method == "prl")
        value = loss(model.config, rollout, batch.target, batch.group)["loss"]
        optimizer.zero_grad()
        value.backward()
        missed = [name for name, x in model.named_parameters() if x.grad is None or not x.grad.any()]
        assert missed == []
        optimizer.step()
        values.append(value.item())
    assert values[0] > values[1] > values[2]


@BACKBONES
@pytest.mark.usefixtures("no_gradients")
def test_replayed_passes_equal_calling_the_model_whatever_the_weights(backbone: str) -> None:
    model = model_of(backbone)
    recorded: list[Callable[[], Tensor]] = []
    rollout = Engine(model, capture=lambda run: (recorded.append(run), run)[1])
    for change in range(2):
        for _ in range(3):
            for lengths in ([3, 1, 6], [12]):
                batch = batch_of(lengths, rows_per_window=None)
                answer = rollout(batch)
                torch.testing.assert_close(answer.states, model(batch).states, rtol=1e-12, atol=1e-12)
                assert torch.equal(answer.weight, model.weight)
        assert len(recorded) == 2 * (change + 1)
        next(iter(text_backbone(model).adaptor.parameters())).add_(1)
        rollout.refresh()


@BACKBONES
def test_a_saved_model_comes_back_with_its_features_and_answers_alike(backbone: str, tmp_path: Path) -> None:
    model = model_of(backbone, dtype=torch.float32, transductive=backbone == "unisrec")
    model.save_pretrained(tmp_path)
    loaded = ReaRec.from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(text_backbone(loaded).item_features, text_backbone(model).item_features)
    answers = recommender_of(model).recommend(HISTORIES, k=4)
    assert recommender_of(loaded).recommend(HISTORIES, k=4) == answers
    with torch.no_grad():
        for history, answer in zip(HISTORIES, answers, strict=True):
            batch = collate_histories([list(map(int, history))], MAX_LEN)
            scores = model.final_state(model(batch).states)[0] @ model.weight.T
            assert answer.items == [str(item) for item in scores.topk(4).indices.tolist()]


def config_of(backbone: str, **settings: Any) -> ReaRecConfig:
    return ReaRecConfig(4, backbone, **{"dim": 8, "feature_dim": 3, **settings})


@BACKBONES
def test_features_that_do_not_fit_are_refused_in_one_line(backbone: str) -> None:
    broken = torch.ones(4, 3)
    broken[2:, 1] = float("nan")
    cases: list[tuple[Tensor, type[Exception], str]] = [
        (torch.ones(3, 3), UserError, "features: 3 rows, but the dataset has 4 items: row 3 is missing"),
        (torch.ones(5, 3), UserError, "features: 5 rows, but the dataset has 4 items: row 4 is the first of no item"),
        (torch.ones(4, 2), ValueError, "feature_dim: got 3, expected the features' 2"),
        (torch.ones(4), UserError, r"features: an array of shape \[4\]; expected one row per item"),
        (broken, UserError, "features: row 2 holds a value that is no finite number"),
        (-broken / 0, UserError, "features: row 0 holds a value that is no finite number"),
    ]
    for features, kind, message in cases:
        with pytest.raises(kind, match=message) as error:
            ReaRec(config_of(backbone), features)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=f"features: missing; {backbone} needs the items' features"):
        ReaRec(config_of(backbone))
    with pytest.raises(ValueError, match=f"feature_dim: got 0 for {backbone}, expected the width"):
        config_of(backbone, feature_dim=0)


@BACKBONES
def test_a_model_of_another_version_names_the_difference(backbone: str, tmp_path: Path) -> None:
    model_of(backbone).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"hops": 3}))
    with pytest.raises(UserError, match=r"config\.json: hops: not a field .* \(rearec \d.* reads it\)"):
        ReaRec.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(values | {"backbone": "gru4rec"}))
    with pytest.raises(UserError, match=r"config\.json: backbone: got 'gru4rec', expected one of sasrec"):
        ReaRec.from_pretrained(tmp_path)
    # what an older version did not know yet takes its default
    del values["adaptor_layers"], values["noised_prefix"]
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert ReaRec.from_pretrained(tmp_path).config == model_of(backbone).config

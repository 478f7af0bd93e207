"""Checkpoints of the official code load and give the states that the official model computes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rearec.data.batches import collate_histories
from rearec.errors import UserError
from rearec.models.official import load_official_state_dict
from rearec.reasoning import ReaRec

NUM_ITEMS, DIM, FFN, HEADS, LAYERS, SLOTS = 12, 8, 10, 2, 2, 50
PAD = NUM_ITEMS
HISTORIES = [[3, 1, 4], [5], [2 * i % NUM_ITEMS for i in range(50)], [0, 11, 0, 7, 7, 9]]


def official_state_dict(steps: int) -> dict[str, Tensor]:
    """Random tensors under the key names that the official PRL and ERL classes save, large enough to matter."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int, mean: float = 0.0, std: float = 0.4) -> Tensor:
        return mean + std * torch.randn(*shape, generator=generator)

    state = {
        "item_emb.weight": normal(NUM_ITEMS + 1, DIM),
        "pos_emb.weight": normal(SLOTS + 1, DIM),
        "model.LayerNorm.weight": normal(DIM, mean=1.0),
        "model.LayerNorm.bias": normal(DIM),
    }
    if steps > 0:
        state["model.reason_pos_emb.weight"] = normal(steps, DIM)
    for layer in range(LAYERS):
        shapes = {
            f"multi_head_attention.{name}": (DIM, DIM) for name in ("query_layer", "key_layer", "value_layer", "dense")
        }
        shapes |= {"feed_forward.dense_1": (FFN, DIM), "feed_forward.dense_2": (DIM, FFN)}
        tensors = {f"{name}.weight": normal(*shape) for name, shape in shapes.items()}
        tensors |= {f"{name}.bias": normal(shape[0]) for name, shape in shapes.items()}
        for part in ("multi_head_attention", "feed_forward"):
            tensors[f"{part}.LayerNorm.weight"], tensors[f"{part}.LayerNorm.bias"] = normal(DIM, mean=1.0), normal(DIM)
        for name, tensor in tensors.items():
            state[f"trm_encoder.layer.{layer}.{name}"] = tensor
            state[f"model.transformer.layer.{layer}.{name}"] = tensor
    return state


def official_states(state: dict[str, Tensor], steps: int) -> Tensor:
    """h_0..h_K of HISTORIES as the official model defines them: left padded to 50 slots with the padding item, whose
    position is 50; an additive mask of -1e10; every reasoning step appends LayerNorm(last state + its embedding)."""

    def linear(name: str, hidden: Tensor) -> Tensor:
        return hidden @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, hidden: Tensor) -> Tensor:
        return F.layer_norm(hidden, (DIM,), state[f"{name}.weight"], state[f"{name}.bias"], eps=1e-12)

    def split(hidden: Tensor) -> Tensor:
        return hidden.view(*hidden.shape[:2], HEADS, -1).transpose(1, 2)

    def encoder(hidden: Tensor, mask: Tensor) -> Tensor:
        for layer in range(LAYERS):
            attention = f"trm_encoder.layer.{layer}.multi_head_attention"
            query, key, value = (
                split(linear(f"{attention}.{name}_layer", hidden)) for name in ("query", "key", "value")
            )
            scores = query @ key.transpose(2, 3) / math.sqrt(DIM // HEADS) + mask
            attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            hidden = norm(f"{attention}.LayerNorm", linear(f"{attention}.dense", attended) + hidden)
            feed_forward = f"trm_encoder.layer.{layer}.feed_forward"
            inner = F.gelu(linear(f"{feed_forward}.dense_1", hidden))
            hidden = norm(f"{feed_forward}.LayerNorm", linear(f"{feed_forward}.dense_2", inner) + hidden)
        return hidden

    items = torch.tensor([[PAD] * (SLOTS - len(history)) + history for history in HISTORIES])
    real = items != PAD
    positions = torch.where(real, real.long().cumsum(1) - 1, SLOTS)
    inputs = norm("model.LayerNorm", state["item_emb.weight"][items] + state["pos_emb.weight"][positions])
    states: list[Tensor] = []
    for step in range(steps + 1):
        length = SLOTS + step
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        visible = torch.cat([real, real.new_ones(len(items), step)], dim=1)
        mask = torch.where(causal & visible[:, None], 0.0, -1e10)[:, None]
        # the whole sequence again at every step: items never see reasoning tokens, so nothing earlier changes
        states.append(encoder(inputs, mask)[:, -1])
        if step < steps:
            token = norm("model.LayerNorm", states[-1] + state["model.reason_pos_emb.weight"][step])
            inputs = torch.cat([inputs, token[:, None]], dim=1)
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("method", ["prl", "erl"])
def test_a_saved_official_checkpoint_gives_the_same_states(tmp_path: Path, method: str, steps: int) -> None:
    state = official_state_dict(steps)
    torch.save(state, tmp_path / "official.pt")
    model = ReaRec.from_official(tmp_path / "official.pt", method=method, temperature=0.1)
    assert (model.config.num_items, model.config.max_len, model.config.steps) == (NUM_ITEMS, SLOTS, steps)
    assert (model.config.dim, model.config.ffn, model.config.layers, model.config.heads) == (DIM, FFN, LAYERS, HEADS)
    assert (model.config.method, model.config.temperature, model.training) == (method, 0.1, False)
    with torch.no_grad():
        states = model(collate_histories(HISTORIES, max_len=SLOTS)).states
    torch.testing.assert_close(states, official_states(state, steps), rtol=1e-5, atol=1e-5)
    assert torch.equal(model.weight, state["item_emb.weight"][:-1])


def test_either_of_the_two_names_of_the_encoder_is_enough() -> None:
    state = official_state_dict(2)
    expected = load_official_state_dict(state, method="prl")[1]
    for dropped in ("trm_encoder.", "model.transformer."):
        kept = {name: tensor for name, tensor in state.items() if not name.startswith(dropped)}
        weights = load_official_state_dict(kept, method="prl")[1]
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in weights)


def test_the_given_state_dict_is_left_as_it_is() -> None:
    state = official_state_dict(2)
    names = list(state)
    load_official_state_dict(state, method="prl")
    assert list(state) == names


def without(name: str) -> dict[str, Tensor]:
    state = official_state_dict(2)
    del state[name]
    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (without("item_emb.weight"), r"tensor item_emb\.weight is missing"),
        (without("model.LayerNorm.bias"), r"tensor model\.LayerNorm\.bias is missing"),
        (official_state_dict(2) | {"extra": torch.zeros(1)}, "tensor extra is not part"),
        (official_state_dict(2) | {"pos_emb.weight": torch.zeros(3)}, r"tensor pos_emb\.weight has shape \[3\]"),
        (
            official_state_dict(2) | {"trm_encoder.layer.1.feed_forward.dense_1.bias": torch.zeros(FFN)},
            r"trm_encoder\.layer\.1\.feed_forward\.dense_1\.bias and model\.transformer\..* differ",
        ),
        (
            official_state_dict(2) | {"model.LayerNorm.bias": torch.zeros(DIM + 1)},
            r"tensor backbone\.input_norm\.bias has shape \[9\], expected \[8\]",
        ),
        (
            {name: t for name, t in official_state_dict(0).items() if ".layer." not in name},
            r"no tensor trm_encoder\.layer",
        ),
    ],
)
def test_other_state_dicts_are_refused_by_name(state: dict[str, Tensor], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ReaRec.from_official(state, method="prl")


def test_a_layer_tensor_missing_under_both_names_is_named() -> None:
    state = without("trm_encoder.layer.0.feed_forward.dense_2.weight")
    del state["model.transformer.layer.0.feed_forward.dense_2.weight"]
    with pytest.raises(UserError, match=r"tensor trm_encoder\.layer\.0\.feed_forward\.dense_2\.weight is missing"):
        ReaRec.from_official(state, method="prl")


class Executed:
    """Unpickling this would call the function below."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("executed"),)


def test_files_that_are_no_state_dict_are_refused_and_nothing_in_them_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        ReaRec.from_official("missing.pt", method="prl")
    torch.save({"item_emb.weight": Executed()}, "code.pt")
    with pytest.raises(UserError, match="without executing code"):
        ReaRec.from_official("code.pt", method="prl")
    assert not Path("executed").exists()
    Path("text.pt").write_text("not a checkpoint")
    with pytest.raises(UserError, match=r"text\.pt: not a file of tensors"):
        ReaRec.from_official("text.pt", method="prl")
    torch.save([torch.zeros(2)], "list.pt")
    with pytest.raises(UserError, match="expected a state dict"):
        ReaRec.from_official("list.pt", method="prl")


def test_a_wrong_method_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="method: got 'PRL'"):
        ReaRec.from_official(official_state_dict(2), method="PRL")


def test_a_base_model_takes_no_reasoning_positions() -> None:
    with pytest.raises(UserError, match=r"reasoning_position_embedding\.weight does not belong"):
        ReaRec.from_official(official_state_dict(2), method="base")

"""save_pretrained and from_pretrained: the same model comes back; nothing half written or foreign is taken for one."""

from __future__ import annotations

import copy
import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from rearec.data.batches import collate_histories
from rearec.errors import UserError
from rearec.models import ReaRecConfig
from rearec.reasoning import ReaRec

BATCH = collate_histories([[1, 2, 3], [4], [5, 6, 7, 8, 0]], max_len=5)


def model_of(method: str = "prl", **settings: Any) -> ReaRec:
    torch.manual_seed(0)
    return ReaRec(ReaRecConfig(num_items=9, method=method, dim=8, ffn=12, max_len=5, **settings))


@pytest.mark.parametrize("method", ["base", "naive", "rpe", "erl", "prl"])
def test_a_saved_model_comes_back_with_its_settings_weights_and_states(tmp_path: Path, method: str) -> None:
    model = model_of(method, steps=3, alpha=1.5, temperature=0.1).eval()
    model.save_pretrained(tmp_path / "run")
    loaded = ReaRec.from_pretrained(tmp_path / "run")
    assert loaded.config == model.config
    assert not loaded.training
    assert torch.equal(loaded(BATCH).states, model(BATCH).states)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    before = torch.random.get_rng_state()
    ReaRec.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_folder_holds_plain_json_and_safetensors_and_nothing_of_the_writing(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]
    assert ReaRecConfig(**json.loads((tmp_path / "config.json").read_text())) == model_of().config
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert weights["backbone.item_embedding.weight"].shape == (9, 8)


def test_saving_again_replaces_the_model_and_keeps_other_files(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    model_of().save_pretrained(tmp_path)
    other = model_of("erl", steps=1)
    other.save_pretrained(tmp_path)
    assert ReaRec.from_pretrained(tmp_path).config == other.config
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_failed_save_leaves_the_earlier_model_untouched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_of().save_pretrained(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)}

    def fail(self: ReaRec, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(ReaRec, "_save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        model_of("erl").save_pretrained(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == before


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_without_one_of_the_files_is_no_model(tmp_path: Path, missing: str) -> None:
    model_of().save_pretrained(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(UserError, match=f"{tmp_path}: no {missing} in this folder; expected a folder with config.json"):
        ReaRec.from_pretrained(tmp_path)


def test_a_missing_folder_and_a_file_are_refused_without_asking_the_hub(tmp_path: Path) -> None:
    for name in (tmp_path / "run", "rearec-no-such-run", "./no/such/run"):
        with pytest.raises(UserError, match="no such folder; expected a folder"):
            ReaRec.from_pretrained(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file; expected a folder"):
        ReaRec.from_pretrained(tmp_path / "file")


def test_a_hub_name_that_cannot_be_loaded_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="owner/name: no such folder, nor a Hugging Face Hub model") as error:
        ReaRec.from_pretrained("owner/name", cache_dir=tmp_path, local_files_only=True)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a readable JSON file"),
        ("[1]", "holds a JSON list, expected an object"),
        ('{"num_items": 9, "method": "gpt"}', "method: got 'gpt', expected one of base"),
        ('{"num_items": 9, "hops": 2}', "hops: not a field"),
        ('{"num_items": 9, "__class__": "os.system"}', "__class__: not a field"),
    ],
)
def test_a_damaged_configuration_is_named_by_file_and_field(tmp_path: Path, text: str, message: str) -> None:
    model_of().save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError) as error:
        ReaRec.from_pretrained(tmp_path)
    assert f"{tmp_path / 'config.json'}: {message}" in str(error.value)


def test_damaged_weights_are_named_by_file(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        ReaRec.from_pretrained(tmp_path)


def test_weights_of_another_model_are_named_by_tensor(tmp_path: Path) -> None:
    model_of(steps=2).save_pretrained(tmp_path / "two")
    model_of(steps=3).save_pretrained(tmp_path / "three")
    model_of("naive").save_pretrained(tmp_path / "naive")
    for source, target, message in (
        ("two", "three", r"reasoning_position_embedding\.weight has shape \[2, 8\], expected \[3, 8\]"),
        ("naive", "three", r"reasoning_position_embedding\.weight is missing, expected shape \[3, 8\]"),
        ("two", "naive", r"reasoning_position_embedding\.weight does not belong"),
    ):
        mixed = tmp_path / f"{source}-{target}"
        mixed.mkdir()
        (mixed / "config.json").write_bytes((tmp_path / target / "config.json").read_bytes())
        (mixed / "model.safetensors").write_bytes((tmp_path / source / "model.safetensors").read_bytes())
        with pytest.raises(UserError, match=message):
            ReaRec.from_pretrained(mixed)


def test_a_copied_or_pickled_model_can_be_saved_and_loaded(tmp_path: Path) -> None:
    model = model_of(steps=3).eval()
    for name, copied in (("copied", copy.deepcopy(model)), ("pickled", pickle.loads(pickle.dumps(model)))):
        copied.save_pretrained(tmp_path / name)
        loaded = ReaRec.from_pretrained(tmp_path / name)
        assert loaded.config == model.config
        assert torch.equal(loaded(BATCH).states, model(BATCH).states)


def test_the_weights_are_as_readable_as_the_other_files(tmp_path: Path) -> None:
    model_of().save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(value: float, tmp_path: Path) -> None:
    model = model_of()
    with torch.no_grad():
        model.backbone.input_norm.bias[3] = value
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"model\.safetensors: tensor backbone\.input_norm\.bias holds values"):
        ReaRec.from_pretrained(tmp_path)

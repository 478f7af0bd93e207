"""MoRec end to end: a transformers model that makes vectors of titles is part of the model and trained with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recomputed import all_recomputed
from rollouts import MAX_LEN, batch_of
from torch import Tensor

from rearec import ReaRec, Recommender, load_dataset
from rearec.data import SequenceDataset, prepare
from rearec.engine import Engine
from rearec.errors import UserError
from rearec.evaluation import evaluate
from rearec.models import ReaRecConfig, title_encoder
from rearec.models.config import METHODS
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, fitting_config, train
from rearec.training.module import TrainingModule

transformers = pytest.importorskip("transformers", reason="text encoders need transformers (extra 'test' or 'text')")

pytestmark = pytest.mark.filterwarnings("ignore:.*does not serve torch.float64")

WORDS = ["red", "blue", "ball", "box", "large", "small", "of", "a"]
WIDTH = 16
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def title_of(item: int) -> str | None:
    """Titles of 1 to 7 words; every sixth item has none."""
    if item % 6 == 5:
        return None if item % 12 == 5 else ""
    return " ".join(WORDS[(item * 3 + place * place) % len(WORDS)] for place in range(1 + item % 7))


def save_encoder(folder: Path, kind: str = "bert") -> Path:
    """A model of two small layers with random weights and a tokenizer of the words above."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<unk>", *WORDS]
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, vocab_size=len(words), **SMALL)
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def dataset(prepared: Path) -> SequenceDataset:
    """The small data set with titles and without features."""
    plain = load_dataset(prepared)
    return replace(plain, item_titles=[title_of(item) for item in range(plain.num_items)])


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(title_encoder, "CHUNK_ITEMS", 5)


def model_of(folder: Path, method: str = "prl", num_items: int = 17, **settings: Any) -> ReaRec:
    """In float64 and evaluation mode, with weights large enough for the encoder and attention to matter."""
    torch.manual_seed(0)
    fields = {"dim": 8, "ffn": 12, "max_len": MAX_LEN, "text_tokens": 9, **settings}
    config = ReaRecConfig(num_items, "morec", method, feature_dim=WIDTH, text_encoder=str(folder), **fields)
    titles = TitleEncoder.pretrained(str(folder), [title_of(item) for item in range(num_items)], config.text_tokens)
    model = ReaRec(config, titles).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def encoder_of(model: ReaRec) -> TitleEncoder:
    assert isinstance(model.backbone, TextBackbone) and model.backbone.text_encoder is not None
    return model.backbone.text_encoder


@pytest.mark.parametrize("kind", ["bert", "llama", "distilbert"])
def test_items_are_made_of_the_mean_over_the_real_tokens_of_their_titles(kind: str, tmp_path: Path) -> None:
    model = model_of(save_encoder(tmp_path, kind))
    encoder, numbers = encoder_of(model).encoder, {word: number + 2 for number, word in enumerate(WORDS)}
    with torch.no_grad():
        table = model.weight
        for item in range(17):
            words = (title_of(item) or "").split()
            vector = torch.zeros(WIDTH, dtype=torch.float64)
            if words:  # one title at a time has no padding
                vector = encoder(torch.tensor([[numbers[word] for word in words]])).last_hidden_state[0].mean(0)
            torch.testing.assert_close(table[item], model.backbone.adaptor(vector), rtol=1e-6, atol=1e-7)
    assert table.std(dim=0).min() > 0.01


def test_longer_titles_are_cut(encoder_folder: Path) -> None:
    lengths = encoder_of(model_of(encoder_folder, text_tokens=3)).lengths
    assert lengths.tolist() == [min(3, len((title_of(item) or "").split())) for item in range(17)]


@pytest.mark.parametrize("method", METHODS)
def test_the_cached_rollout_equals_recomputing_everything(method: str, encoder_folder: Path) -> None:
    model, batch = model_of(encoder_folder, method), batch_of([3, 9, 1, MAX_LEN], rows_per_window=None)
    torch.testing.assert_close(model(batch).states, all_recomputed(model, batch), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("no_gradients")
def test_an_engine_encodes_the_titles_once_and_anew_by_refresh(encoder_folder: Path) -> None:
    model, batch = model_of(encoder_folder), batch_of([3, 5])
    encoder, calls = encoder_of(model), []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    engine = Engine(model)
    for number, changed in enumerate((next(encoder.parameters()), encoder.tokens, encoder.lengths), start=1):
        before = [engine(batch).weight for _ in range(3)][-1]
        assert len(calls) == number
        changed.copy_(changed.flip(0))
        engine.refresh()
        assert not torch.equal(engine.weight, before)
    assert torch.equal(engine(batch).weight, model(batch).weight)


def gradients(model: ReaRec) -> dict[str, Tensor]:
    torch.manual_seed(4)  # of the dropout masks
    table = model.weight
    (table * torch.arange(table.numel(), dtype=table.dtype).view_as(table).cos()).sum().backward()
    found = {name: x.grad for name, x in encoder_of(model).named_parameters() if x.grad is not None}
    model.zero_grad()
    return found


def test_recomputed_chunks_have_the_gradients_of_one_pass_that_keeps_everything(
    encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(encoder_folder).train()
    assert encoder_of(model).encoder.config.hidden_dropout_prob > 0
    recomputed = gradients(model)
    assert set(recomputed) == {name for name, _ in encoder_of(model).named_parameters()}
    # a word that no title has is the padding
    assert all(gradient.any() for gradient in recomputed.values())

    def at_once(run: Callable[..., Tensor], *arguments: Any, use_reentrant: bool) -> Tensor:
        return run(*arguments)

    monkeypatch.setattr(title_encoder, "checkpoint", at_once)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-9, atol=1e-12)


def test_memory_holds_no_activations_of_all_titles(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def kept(num_items: int) -> int:
        model, held = model_of(encoder_folder, num_items=num_items), []

        def pack(tensor: Tensor) -> Tensor:
            held.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            encoder_of(model)()
        return sum(held)

    tokens_and_lengths = 20 * 9 + 20
    assert kept(40) - kept(20) <= 2 * tokens_and_lengths
    monkeypatch.setattr(title_encoder, "checkpoint", lambda run, *arguments, use_reentrant: run(*arguments))
    assert kept(40) - kept(20) > 20 * 9 * WIDTH


class _Stop(Exception):
    pass


def test_it_trains_resumes_and_is_loaded_without_the_encoder_it_began_with(
    encoder_folder: Path, dataset: SequenceDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(title_encoder, "CHUNK_ITEMS", 30)
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    config = fitting_config(
        dataset, backbone="morec", text_encoder=str(folder), text_tokens=6, dim=8, ffn=8, layers=1, max_len=8, warmup=1
    )
    assert config.feature_dim == WIDTH
    options = TrainingOptions(epochs=2, batch_rows=512, lr=1e-2)
    whole = train(dataset, tmp_path / "whole", config, options)

    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise _Stop

    with pytest.raises(_Stop):
        train(dataset, tmp_path / "broken", config, options, on_epoch=stop)
    others = replace(dataset, item_titles=[*(dataset.item_titles or [])[1:], "box"])
    with pytest.raises(UserError, match="was started with other titles of the items"):
        train(others, tmp_path / "broken", config, options, resume=True)
    assert train(dataset, tmp_path / "broken", config, options, resume=True) == whole
    saved = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "broken")]
    assert saved[0] == saved[1]
    checkpoint = torch.load(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in checkpoint if name.endswith(("text_encoder.tokens", "text_encoder.lengths"))]

    before = transformers.AutoModel.from_pretrained(folder).state_dict()
    shutil.rmtree(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ReaRec.from_pretrained(tmp_path / "whole")
    after = encoder_of(model).encoder.state_dict()
    assert after and all(not torch.equal(value, before[name]) for name, value in after.items())
    assert evaluate(model, dataset, "test") == whole["test"]
    answer = Recommender(tmp_path / "whole").recommend([["item-001", "item-002"]], k=5)[0]
    assert (answer.source, len(answer.items)) == ("model", 5)
    model.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "text_encoder.json").read_text())["model_type"] == "bert"
    RunFolder(tmp_path / "whole").check_writable(force=True)  # which knows all of its files


def test_the_encoder_has_a_learning_rate_of_its_own(encoder_folder: Path, dataset: SequenceDataset) -> None:
    model = model_of(encoder_folder, num_items=dataset.num_items)
    for given, expected in ((None, 1e-3), (3e-4, 3e-4)):
        module = TrainingModule(model, dataset, TrainingOptions(lr=2e-2, encoder_lr=given))
        rest, encoder = module.configure_optimizers().param_groups
        assert (rest["lr"], encoder["lr"]) == (2e-2, expected)
        assert set(map(id, encoder["params"])) == set(map(id, encoder_of(model).parameters()))
        assert len(rest["params"]) + len(encoder["params"]) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="encoder_lr: got 0, expected a finite number above 0"):
        TrainingOptions(encoder_lr=0)


def test_no_code_that_comes_with_an_encoder_is_run(encoder_folder: Path, tmp_path: Path) -> None:
    folder, mark = tmp_path / "encoder", tmp_path / "mark"
    shutil.copytree(encoder_folder, folder)
    values = json.loads((folder / "config.json").read_text())
    values["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\n")
    (folder / "config.json").write_text(json.dumps(values))
    model = model_of(folder)  # transformers knows a BERT by itself
    model.save_pretrained(tmp_path / "model")
    architecture = tmp_path / "model" / "text_encoder.json"
    architecture.write_text(json.dumps({**json.loads(architecture.read_text()), "auto_map": values["auto_map"]}))
    assert encoder_of(ReaRec.from_pretrained(tmp_path / "model")).encoder.config.model_type == "bert"
    (folder / "config.json").write_text(json.dumps({**values, "model_type": "evil"}))
    with pytest.raises(UserError, match=r"text encoder .*: cannot be loaded: ") as error:
        model_of(folder)
    assert "\n" not in str(error.value)
    assert not mark.exists()


def test_an_encoder_of_pickled_weights_is_refused(encoder_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(encoder_folder, tmp_path / "encoder")
    (tmp_path / "encoder" / "model.safetensors").unlink()
    torch.save(
        transformers.AutoModel.from_pretrained(encoder_folder).state_dict(), tmp_path / "encoder" / "pytorch_model.bin"
    )
    with pytest.raises(UserError, match=r"text encoder .*: cannot be loaded: .*safetensors"):
        model_of(tmp_path / "encoder")


def test_a_damaged_model_folder_is_named(encoder_folder: Path, tmp_path: Path) -> None:
    model_of(encoder_folder).save_pretrained(tmp_path)
    for text in ("{", "[]", '{"model_type": "evil"}', "{}"):
        (tmp_path / "text_encoder.json").write_text(text)
        with pytest.raises(
            UserError, match=r"text_encoder\.json: not the configuration of a transformers model"
        ) as error:
            ReaRec.from_pretrained(tmp_path)
        assert "\n" not in str(error.value)
    (tmp_path / "text_encoder.json").unlink()
    with pytest.raises(UserError, match=r"no text_encoder\.json in this folder"):
        ReaRec.from_pretrained(tmp_path)


def test_wrong_settings_are_refused_in_one_line(encoder_folder: Path, dataset: SequenceDataset, tmp_path: Path) -> None:
    name = str(encoder_folder)
    for titles in (None, [None, ""] * 20):
        with pytest.raises(UserError, match=r"reads the items' titles, and the dataset has none; .* --titles FILE"):
            fitting_config(replace(dataset, item_titles=titles), backbone="morec", text_encoder=name)
    with pytest.raises(UserError, match=r"text encoder .*none: cannot be loaded"):
        fitting_config(dataset, backbone="morec", text_encoder=str(tmp_path / "none"))
    transformers.T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match="is a t5, expected a model of an encoder or decoder alone"):
        fitting_config(dataset, backbone="morec", text_encoder=str(tmp_path / "t5"))
    for backbone in ("sasrec", "unisrec"):
        with pytest.raises(ValueError, match=f"text_encoder: got one for {backbone}, expected none: morec alone"):
            fitting_config(dataset, backbone=backbone, text_encoder=name)
    with pytest.raises(ValueError, match="text_encoder: got ''"):
        ReaRecConfig(5, "morec", feature_dim=3, text_encoder="")
    config = ReaRecConfig(5, "morec", feature_dim=WIDTH, text_encoder=name)
    with pytest.raises(ValueError, match="features: missing; morec needs a TitleEncoder"):
        ReaRec(config)
    with pytest.raises(ValueError, match="features: of another kind; morec needs a TitleEncoder"):
        ReaRec(config, torch.ones(5, WIDTH))
    wrong = replace(config, num_items=dataset.num_items, feature_dim=3)
    with pytest.raises(ValueError, match=f"feature_dim: got 3, expected the text encoder's {WIDTH}"):
        train(dataset, tmp_path / "run", wrong)


def test_the_command_trains_an_encoder(encoder_folder: Path, prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    source, titles = tmp_path / "s.txt", tmp_path / "titles.json"
    draw = np.random.default_rng(0)
    source.write_text("".join(f"u{user} {item}\n" for user in range(30) for item in draw.permutation(12)[:6]))
    titles.write_text(json.dumps({str(item): title_of(item) or "" for item in range(12)}))
    prepare("sasrec", [source], tmp_path / "data", split="leave-one-out", titles=titles, missing_titles="keep")
    options = ("--backbone", "morec", "--text-encoder", encoder_folder, "--dim", 8, "--ffn", 8, "--layers", 1)
    options += ("--epochs", 1, "--batch-size", 64, "--device", "cpu")
    refused = call_rearec("train", prepared, "--out", tmp_path / "run", *options)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "a text encoder reads the items' titles, and the dataset has none" in refused.stderr
    trained = call_rearec("train", tmp_path / "data", "--out", tmp_path / "run", *options)
    assert trained.returncode == 0, trained.stderr
    assert ReaRec.from_pretrained(tmp_path / "run").config.text_encoder == str(encoder_folder)

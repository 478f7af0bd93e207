"""The README.md of a model: what a run has measured, for people and for the Hub; what of a run is published."""

from __future__ import annotations

import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from repeating_data import repeating_dataset

from rearec.data import ItemGraph
from rearec.data.batches import collate_histories
from rearec.errors import UserError
from rearec.models import ReaRecConfig, saved, weight_files
from rearec.models.card import model_card
from rearec.models.prior import GraphPrior, PriorSettings
from rearec.reasoning import ReaRec
from rearec.report.floors import FLOORS

DATA = {"path": None, "items": 9, "users": 5, "interactions": 4321, "fingerprint": "f00", "rows": {"train": 3}}


def test_the_card_of_a_run_says_what_it_was_trained_on_and_what_it_reached(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    options = json.loads((run_folder / "options.json").read_text())
    text = (run_folder / "README.md").read_text(encoding="utf-8")
    test = result["test"]
    for name, measured in (
        ("this model", test),
        *((floor.words, test[floor_name]) for floor_name, floor in FLOORS.items()),
    ):
        (row,) = re.findall(rf"^\| {name} \|.*$", text, flags=re.MULTILINE)
        assert f"{measured['ndcg@20']:.4f} ± {measured['ndcg@20_se']:.4f}" in row
        assert f"{measured['mrr']:.4f} ± {measured['mrr_se']:.4f}" in row
    assert f"{test['rows']:,} predictions" in text and "seen items among the candidates" in text
    assert f"`{options['dataset']['fingerprint']}`" in text and "| split | leave-one-out" in text
    assert f"| users | {options['dataset']['users']} |" in text
    assert "| `alpha` | 1.5 |" in text and "| `lr` | 0.01 |" in text
    assert "kl_weight" not in text and "experts" not in text  # which prl over sasrec does not read
    assert str(run_folder.parent) not in text, "no path of this machine"
    for line in ("rearec.Recommender(", "rearec.load(", "rearec.ReaRec.from_pretrained("):
        assert line in text


def test_the_hub_reads_the_head(run_folder: Path) -> None:
    test = json.loads((run_folder / "result.json").read_text())["test"]
    card = ModelCard.load(run_folder / "README.md")
    assert card.data.library_name == "rearec"
    assert card.data.tags == ["recommendation", "sequential-recommendation", "method-prl", "backbone-sasrec"]
    assert card.data.eval_results is not None
    found = {each.metric_type: each.metric_value for each in card.data.eval_results}
    assert found == {name: test[name] for name in ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr")}
    assert {(each.dataset_name, each.dataset_split) for each in card.data.eval_results} == {("prepared", "test")}


def test_a_model_without_a_run_says_what_it_is(tmp_path: Path) -> None:
    ReaRec(ReaRecConfig(9, method="erl", steps=1, dim=8)).save_pretrained(
        tmp_path, model_card_kwargs={"license": "mit"}
    )
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    card = ModelCard(text)
    assert card.data.license == "mit" and card.data.eval_results is None
    assert "method erl, 1 reasoning step." in text and "metrics" not in text and "Recommender" not in text


def test_without_test_rows_the_validation_is_told(run_folder: Path) -> None:
    result = {**json.loads((run_folder / "result.json").read_text()), "test": None}
    text = model_card(ReaRecConfig(9), data=DATA, result=result)
    assert "## Validation metrics" in text and f"{result['valid']['mrr']:.4f} ±" in text
    assert "data in memory" in text and "| interactions | 4,321 |" in text and "split" not in text.split("## Val")[1]


def test_names_are_no_markup() -> None:
    data = {**DATA, "path": "/data/[a](b) <i> | c\x1b"}
    text = model_card(ReaRecConfig(9), data=data)
    assert r"# ReaRec: prl on \[a\](b) \<i\> \| c\\x1b" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("backbone", ["own", "mine:gru"])
def test_the_card_says_that_the_encoder_is_not_in_the_folder(backbone: str) -> None:
    text = model_card(ReaRecConfig(9, backbone=backbone), data=DATA)
    assert "The encoder is code that is not in this folder" in text and "backbone-own" in text
    assert ("trust_code=True)" if ":" in backbone else "backbone=encoder)") in text


class Hub:
    """Repositories as folders, in place of the Hugging Face Hub."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: bool | None = None

    def create_repo(self, repo_id: str, *, private: bool | None, exist_ok: bool) -> Any:
        self.private = private
        (self.root / repo_id).mkdir(parents=True, exist_ok=exist_ok)
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], delete_patterns: list[str], **more: Any
    ) -> str:
        for path in (self.root / repo_id).iterdir():
            if any(fnmatch(path.name, each) for each in delete_patterns):
                path.unlink()
        for path in Path(folder_path).rglob("*"):
            if path.is_file() and any(fnmatch(str(path.relative_to(folder_path)), each) for each in allow_patterns):
                shutil.copy(path, self.root / repo_id)
        return f"commit of {repo_id}"

    def download(self, repo_id: str, file: str, **more: Any) -> str:
        path = self.root / repo_id / file
        if not path.is_file():
            raise EntryNotFoundError(f"404: {file}")
        return str(path)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(saved, "HfApi", lambda token: hub)
    monkeypatch.setattr(saved, "hf_hub_download", hub.download)
    return hub


def test_a_published_run_has_all_that_recommendations_need_and_nothing_of_this_machine(
    run_folder: Path, hub: Hub
) -> None:
    assert saved.publish(run_folder, "owner/name", private=True) == "commit of owner/name"
    assert hub.private is True
    assert sorted(path.name for path in (hub.root / "owner" / "name").iterdir()) == [
        *("README.md", "catalog.json", "config.json", "model.safetensors", "result.json"),
    ]
    (catalog,) = saved.locate_model("owner/name", ("catalog.json",))
    assert json.loads(catalog.read_text()) == json.loads((run_folder / "catalog.json").read_text())
    model, here = ReaRec.from_pretrained("owner/name"), ReaRec.from_pretrained(run_folder)
    batch = collate_histories([[1, 2, 3]], 8)
    assert (model(batch).states == here(batch).states).all()


def test_saving_can_publish_at_once(tmp_path: Path, hub: Hub) -> None:
    model = ReaRec(ReaRecConfig(9, dim=8))
    address = model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    assert address == "commit of owner/mine"
    assert sorted(path.name for path in (hub.root / "owner" / "mine").iterdir()) == [
        *("README.md", "config.json", "model.safetensors"),
    ]


def test_weights_in_several_files_are_published_and_replaced(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, there = ReaRec(ReaRecConfig(9, dim=8)), hub.root / "owner" / "mine"
    with monkeypatch.context() as patched:
        patched.setattr(weight_files, "MOST_BYTES", 2000)
        model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    files = {path.name for path in there.iterdir()}
    assert "model.safetensors.index.json" in files and sum(name.startswith("model-") for name in files) > 1
    loaded = ReaRec.from_pretrained("owner/mine")
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in loaded.state_dict().items())
    min(there.glob("model-*")).unlink()
    with pytest.raises(UserError, match=r"nor a Hugging Face Hub model \(404: model-00001-of-"):
        ReaRec.from_pretrained("owner/mine")
    model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    assert {path.name for path in there.iterdir()} == {"README.md", "config.json", "model.safetensors"}


def test_a_folder_without_a_model_is_not_published(tmp_path: Path, hub: Hub) -> None:
    with pytest.raises(UserError, match=r"no config\.json in this folder"):
        saved.publish(tmp_path, "owner/name")
    assert not hub.root.exists()


def test_a_graph_prior_is_published_and_found_again(tmp_path: Path, hub: Hub) -> None:
    dataset = repeating_dataset()
    model = ReaRec(ReaRecConfig(dataset.num_items, method="base", dim=8))
    model.prior = GraphPrior(ItemGraph.of(dataset), PriorSettings(), method="base", steps=0, temperature=0.07)
    model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    assert (hub.root / "owner" / "mine" / "prior.safetensors").is_file()
    loaded = ReaRec.from_pretrained("owner/mine")
    assert loaded.prior is not None and loaded.prior.settings == model.prior.settings


def test_a_model_without_a_prior_takes_the_place_of_one_with_it(tmp_path: Path, hub: Hub) -> None:
    dataset = repeating_dataset()
    model = ReaRec(ReaRecConfig(dataset.num_items, method="base", dim=8))
    model.prior = GraphPrior(ItemGraph.of(dataset), PriorSettings(), method="base", steps=0, temperature=0.07)
    model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    model.prior = None
    model.save_pretrained(tmp_path / "mine", repo_id="owner/mine", push_to_hub=True)
    assert ReaRec.from_pretrained("owner/mine").prior is None

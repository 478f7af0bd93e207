"""Recommenders from published folders: from the Hub, and from a folder that was downloaded from there."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from rearec import Recommender
from rearec.errors import UserError
from rearec.models import saved

PUBLISHED = ("config.json", "model.safetensors", "catalog.json")


@pytest.fixture
def published(run_folder: Path, tmp_path: Path) -> Path:
    """What a Hub repository holds of a run."""
    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in PUBLISHED:
        shutil.copy(run_folder / name, folder / name)
    return folder


@pytest.fixture
def hub(published: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub that holds one model, ``someone/tea``."""

    def download(name: str, file: str, **_: Any) -> str:
        if name != "someone/tea" or not (published / file).is_file():
            raise LocalEntryNotFoundError(f"no {file} of {name} here")
        return str(published / file)

    monkeypatch.setattr(saved, "hf_hub_download", download)
    return published


def test_a_model_of_the_hub_answers_by_its_name(run_folder: Path, hub: Path) -> None:
    expected = Recommender(run_folder).recommend([["item-001", "?"]])
    assert Recommender("someone/tea").recommend([["item-001", "?"]]) == expected
    with pytest.raises(UserError, match="someone/coffee: no such folder, nor a Hugging Face Hub model"):
        Recommender("someone/coffee")
    (hub / "catalog.json").unlink()
    with pytest.raises(UserError, match=r"no catalog\.json of someone/tea here"):
        Recommender("someone/tea")


def test_a_downloaded_folder_needs_no_record_of_the_training(run_folder: Path, published: Path) -> None:
    assert Recommender(published).recommend([["item-001"]]) == Recommender(run_folder).recommend([["item-001"]])
    (published / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors in this folder"):
        Recommender(published)


def test_an_unfinished_training_does_not_answer(run_folder: Path, tmp_path: Path) -> None:
    unfinished = shutil.copytree(run_folder, tmp_path / "unfinished")
    (unfinished / "result.json").unlink()
    with pytest.raises(UserError, match="the training did not finish"):
        Recommender(unfinished)

"""rearec prior, and what train, evaluate, compare and recommend's neighbours say of a graph prior."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from rearec.data import load_dataset
from rearec.errors import UserError
from rearec.models.prior import GraphPrior
from rearec.reasoning import ReaRec
from rearec.run_folder import FILES, FOLDERS, RunFolder
from rearec.training import refit, train
from rearec.training.prior_of_run import add_prior
from rearec.training.resuming import settings_of_run

SMALL = ("--dim", 8, "--ffn", 8, "--layers", 1, "--epochs", 1, "--logger", "none")


@pytest.fixture
def run(run_folder: Path, tmp_path: Path) -> Path:
    """A copy of a run without a prior."""
    return shutil.copytree(run_folder, tmp_path / "run")


def test_a_prior_is_fitted_stored_and_measured(run: Path, call_rearec: Any) -> None:
    fitted = call_rearec("prior", run, "--json")
    assert fitted.returncode == 0, fitted.stderr
    answer = json.loads(fitted.stdout)
    assert answer["prior"] == "graph" and answer["valid"] > answer["valid_without"] and answer["rows"] == 150
    model = ReaRec.from_pretrained(run)
    assert model.prior is not None and model.prior.settings.weight == answer["settings"]["weight"]
    assert model.prior.graph.options.shrinkage == answer["graph"]["shrinkage"]

    with_it, without = (
        json.loads(call_rearec("evaluate", run, "--split", "valid", "--prior", choice, "--json").stdout)
        for choice in ("graph", "none")
    )
    assert with_it["ndcg@20"] == pytest.approx(answer["valid"]) and with_it["prior"] == "graph"
    assert without["ndcg@20"] == pytest.approx(answer["valid_without"]) and without["prior"] == "none"
    assert with_it["without_prior"]["ndcg@20"] == without["ndcg@20"] and "without_prior" not in without
    table = call_rearec("evaluate", run)
    assert re.search(r"^prl +0", table.stdout, re.M) and re.search(r"^prl without the graph +0", table.stdout, re.M)
    fewer = call_rearec("evaluate", run, "--steps", 1)
    assert "answered without the graph prior: it was fitted for 2 steps, not 1" in fewer.stderr
    assert "without the graph" not in fewer.stdout
    asked = call_rearec("evaluate", run, "--steps", 1, "--prior", "none")
    assert asked.returncode == 0 and "graph prior" not in asked.stderr

    again = call_rearec("prior", run)
    assert again.returncode == 2 and "prior.safetensors: there is a graph prior already; --force" in again.stderr
    forced = call_rearec("prior", run, "--force", "--exclude-seen")
    assert forced.returncode == 0 and "NDCG@20 on 150 validation rows: 0." in forced.stdout
    assert "weight" in forced.stdout and str(run / "prior.safetensors") in forced.stdout


def test_the_run_says_what_it_says_of_a_training_with_a_prior(run: Path, prepared: Path, call_rearec: Any) -> None:
    before, model = (run / "result.json").read_text(), (run / "model.safetensors").read_bytes()
    assert "graph prior" not in (run / "README.md").read_text()
    assert call_rearec("prior", run).returncode == 0
    result = json.loads((run / "result.json").read_text())
    for split in ("valid", "test"):
        shown = json.loads(call_rearec("evaluate", run, "--split", split, "--json").stdout)
        assert result[split]["prior"] == "graph" and result[split]["ndcg@20"] == shown["ndcg@20"]
        assert result[split]["without_prior"]["ndcg@20"] == json.loads(before)[split]["ndcg@20"]
    card = (run / "README.md").read_text()
    assert "A graph prior is added" in card and "| without its graph prior |" in card
    assert f"value: {result['test']['ndcg@20']}" in card
    assert (run / "model.safetensors").read_bytes() == model
    assert {path.name for path in run.iterdir()} <= {*FILES, *FOLDERS}


@pytest.mark.parametrize("renamed", range(3))
def test_one_that_is_stopped_leaves_no_files_that_contradict_each_other(
    run: Path, prepared: Path, renamed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, dataset = RunFolder(run), load_dataset(prepared)
    replace, count = Path.replace, 0

    def stops(path: Path, to: Path) -> Path:
        nonlocal count
        if to.parent == run and (count := count + 1) > renamed:
            raise KeyboardInterrupt
        return replace(path, to)

    monkeypatch.setattr(Path, "replace", stops)
    with pytest.raises(KeyboardInterrupt):
        add_prior(folder, ReaRec.from_pretrained(run, prior=False), dataset, batch_rows=512)
    monkeypatch.undo()
    assert not folder.finished and count == renamed + 1
    # as any training that did not end, it goes on: the model that it trained had none
    result = train(prepared, run, *settings_of_run(folder), logger="none", resume=True)
    assert folder.result() == json.loads(json.dumps(result)) and ReaRec.from_pretrained(run).prior is None


def test_one_that_cannot_be_written_changes_nothing(run: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: Any) -> None:
        raise UserError("no space left")

    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    monkeypatch.setattr(GraphPrior, "save", fails)
    with pytest.raises(UserError, match="no space left"):
        add_prior(RunFolder(run), ReaRec.from_pretrained(run), load_dataset(prepared), batch_rows=512)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_a_damaged_prior_can_be_replaced(run: Path, call_rearec: Any) -> None:
    (run / "prior.safetensors").write_bytes(b"nothing")
    assert call_rearec("evaluate", run).returncode == 2
    assert call_rearec("prior", run, "--force").returncode == 0
    assert call_rearec("evaluate", run).returncode == 0


def test_a_saved_model_needs_its_data(run: Path, prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    ReaRec.from_pretrained(run).save_pretrained(tmp_path / "model")
    without = call_rearec("prior", tmp_path / "model")
    assert without.returncode == 2 and "give it with --data" in without.stderr
    assert call_rearec("prior", tmp_path / "model", "--data", prepared).returncode == 0
    assert ReaRec.from_pretrained(tmp_path / "model").prior is not None


def test_what_cannot_have_one_is_refused(run: Path, prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    refit(run, tmp_path / "final", data=load_dataset(prepared), logger="none")
    refused = call_rearec("prior", tmp_path / "final")
    assert refused.returncode == 2 and "a refit, no row is left to fit a prior on" in refused.stderr
    nowhere = call_rearec("prior", tmp_path / "nowhere", "--data", prepared)
    assert nowhere.returncode == 2 and "no such folder" in nowhere.stderr
    asked = call_rearec("evaluate", run, "--prior", "graph")
    assert asked.returncode == 2 and "'rearec prior RUN' fits one" in asked.stderr


def test_train_says_what_it_brought(prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    trained = call_rearec("train", prepared, "--out", tmp_path / "with", *SMALL)
    assert trained.returncode == 0, trained.stderr
    assert "the graph prior: NDCG@20 on validation 0." in trained.stdout
    assert "valid without the graph" in trained.stdout and "test without the graph" in trained.stdout
    plain = call_rearec("train", prepared, "--out", tmp_path / "without", "--prior", "none", *SMALL)
    assert plain.returncode == 0 and "graph" not in plain.stdout
    assert "prior none (graph)" in plain.stderr

    compared = call_rearec("compare", tmp_path / "with", tmp_path / "without", "--out", tmp_path / "page", "--json")
    assert compared.returncode == 0, compared.stderr
    settings = {line["setting"]: line for line in json.loads(compared.stdout)["settings"]}
    assert settings["prior"]["with"] == "graph" and settings["prior"]["without"] == "none"

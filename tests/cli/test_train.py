"""``rearec train`` and ``evaluate``: from end to end, moved data, damaged options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SMALL = ("--dim", "16", "--ffn", "16", "--layers", "1", "--max-len", "8", "--epochs", "1", "--batch-size", "256")


def test_train_evaluate_and_recommend_from_end_to_end(prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    run = tmp_path / "run"
    trained = call_rearec("train", prepared, "--out", run, "--method", "base", "--steps", "2", *SMALL, "--json")
    assert trained.returncode == 0, trained.stderr
    assert "--steps is ignored: base does not reason" in trained.stderr
    assert "epoch   1" in trained.stderr
    assert "deprecated" not in trained.stderr and "Warning" not in trained.stderr
    result = json.loads(trained.stdout)
    assert result["best_epoch"] == 1 and result["test"]["rows"] == 150 and result["steps"] == 0

    again = call_rearec("train", prepared, "--out", run, "--method", "base", *SMALL)
    assert again.returncode == 2 and "--force replaces it" in again.stderr

    evaluated = call_rearec("evaluate", run, "--json", "--device", "cpu")
    assert evaluated.returncode == 0, evaluated.stderr
    metrics = json.loads(evaluated.stdout)
    for name in ("ndcg@10", "ndcg@20", "recall@10", "recall@20", "mrr"):
        assert metrics[name] == pytest.approx(result["test"][name], rel=1e-12)
        assert metrics[f"{name}_se"] > 0
    assert metrics["rows"] == 150

    table = call_rearec(
        "evaluate", run, "--split", "valid", "--users-by", "length", "--items-by", "popularity", "--by-step"
    )
    assert table.returncode == 0, table.stderr
    for words in ("valid rows", "popularity", "markov", "By length of the history", "By interactions of the target"):
        assert words in table.stdout

    too_deep = call_rearec("evaluate", run, "--steps", "1")
    assert too_deep.returncode == 2
    assert too_deep.stderr == "error: --steps: got 1, expected 0..0: the model was trained for 0 steps\n"

    recommended = call_rearec("recommend", run, "item-001", "nobody knows", "item-010", "-k", "5", "--json")
    assert recommended.returncode == 0, recommended.stderr
    answer = json.loads(recommended.stdout)
    assert answer["unknown"] == ["nobody knows"] and answer["source"] == "model"
    assert len(set(answer["items"])) == 5 and all(item.startswith("item-") for item in answer["items"])


def test_evaluate_finds_a_moved_dataset_with_data_and_refuses_another(
    run_folder: Path, prepared: Path, source_file: Path, tmp_path: Path, call_rearec: Any
) -> None:
    other = tmp_path / "other"
    histories = json.loads(source_file.read_text())
    (tmp_path / "source.json").write_text(json.dumps(dict(reversed(histories.items()))))
    assert call_rearec("prepare", "json", tmp_path / "source.json", "--out", other).returncode == 0
    refused = call_rearec("evaluate", run_folder, "--data", other)
    assert refused.returncode == 2 and "was trained on other data or on another split" in refused.stderr
    # the same items, another split
    again = tmp_path / "again"
    assert call_rearec("prepare", "json", source_file, "--out", again, "--min-eval-history", "9").returncode == 0
    refused = call_rearec("evaluate", run_folder, "--data", again)
    assert refused.returncode == 2 and "was trained on other data or on another split" in refused.stderr

    lost = tmp_path / "run"
    lost.mkdir()
    for path in run_folder.iterdir():
        if path.is_file():
            (lost / path.name).write_bytes(path.read_bytes())
    options = json.loads((lost / "options.json").read_text())
    options["dataset"]["path"] = str(tmp_path / "gone")
    (lost / "options.json").write_text(json.dumps(options))
    missing = call_rearec("evaluate", lost)
    assert missing.returncode == 2 and "say where it is with --data" in missing.stderr
    assert call_rearec("evaluate", lost, "--data", prepared).returncode == 0


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("options.json", lambda value: value["training"].update(lr="0.1"), "damaged: lr: got '0.1', expected"),
        ("options.json", lambda value: value["model"].update(dim="16"), "damaged: dim: got '16', expected"),
        ("options.json", lambda value: value.update(training=[]), "damaged: training is missing"),
    ],
)
def test_damaged_options_of_a_run_to_resume_are_named(
    name: str, damage: Any, message: str, run_folder: Path, prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    value = json.loads((run_folder / name).read_text())
    damage(value)
    (tmp_path / name).write_text(json.dumps(value))
    result = call_rearec("train", prepared, "--out", tmp_path, "--resume")
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: {tmp_path / name}: {message}")


def test_what_the_method_or_the_backbone_does_not_read_is_said(
    prepared: Path, run_folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    unread = ("--kl-weight", "0.1", "--experts", "4", "--mask-share", "0.5")
    result = call_rearec("train", prepared, "--out", tmp_path / "run", "--alpha", "2", *unread, *SMALL)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if "ignored" in line] == [
        "--kl-weight is ignored: prl does not read it",
        "--experts is ignored: sasrec does not read it",
        "--mask-share is ignored: sasrec does not read it",
    ]
    # The run to resume says what it is: nothing is ignored for the sake of a default.
    contradicts = call_rearec("train", prepared, "--out", run_folder, "--resume", "--kl-weight", "0.1")
    assert contradicts.returncode == 2
    assert contradicts.stderr == "error: --kl-weight: the run to resume was started with 0.05, not 0.1\n"
    ignored = call_rearec("train", prepared, "--out", run_folder, "--resume", "--method", "prl", "--kl-weight", "0.1")
    assert ignored.returncode == 0, ignored.stderr
    assert "--kl-weight is ignored: prl does not read it" in ignored.stderr


def test_a_wrong_setting_is_told_by_its_option(prepared: Path, tmp_path: Path, call_rearec: Any) -> None:
    for option, value, expected in (
        ("--tau", "0", "--tau: got 0.0, expected a finite number above 0"),
        ("--dropout", "1", "--dropout: got 1.0, expected a number in [0, 1)"),
        ("--clip", "-1", "--clip: got -1.0, expected a finite number, 0 or more"),
    ):
        result = call_rearec("train", prepared, "--out", tmp_path / "run", option, value)
        assert (result.returncode, result.stderr.splitlines()[-1]) == (2, f"error: {expected}")

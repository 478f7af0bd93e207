"""``rearec train`` and ``refit``: presets, configuration files, longer runs, what is said where a run is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

CONFIG = """
dim: 16
ffn: 16
layers: 1
--max-len: 8
batch-size: 256
epochs: 2
lr: 1e-2
cl_weight: 1
warmup: 1
patience: null
"""
PRESET = (
    "preset best, with dim 16 (64), ffn 16 (128), layers 1 (2), max-len 8 (50), cl-weight 1.0 (.01), warmup 1 (2), "
    "epochs 3 (30), batch-size 256 (512), lr .01 (.0005)"
)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    return path


def test_a_run_begins_with_resume_is_extended_and_refitted(
    prepared: Path, tmp_path: Path, config: Path, call_rearec: Any
) -> None:
    run, final = tmp_path / "run", tmp_path / "final"
    # the command line wins over the file
    begun = call_rearec("train", prepared, "--out", run, "--config", config, "--epochs", "3", "--resume", "--json")
    assert begun.returncode == 0, begun.stderr
    lines = begun.stderr.splitlines()
    assert lines[0] == f"nothing to resume in {run}: starting anew with these settings"
    assert lines[1] == PRESET
    place = lines.index("the loss jumps here: the contrastive term starts")
    assert lines[place + 1].startswith("epoch   2")
    stored = json.loads((run / "options.json").read_text())
    assert stored["preset"]["name"] == "best" and stored["preset"]["differing"]["dim"] == [16, 64]
    assert stored["model"]["steps"] == 3 and stored["training"]["patience"] == 6
    assert json.loads(begun.stdout)["advice"] == [line for line in lines if line in json.loads(begun.stdout)["advice"]]

    extended = call_rearec("train", prepared, "--out", run, "--resume", "--epochs", "4", "--json")
    assert extended.returncode == 0, extended.stderr
    assert json.loads(extended.stdout)["epochs"] == 4 and "finished already" not in extended.stderr
    assert json.loads((run / "options.json").read_text())["preset"]["name"] == "best"

    refitted = call_rearec("refit", run, "--out", final, "--on", "all", "--epochs", "1", "--json")
    assert refitted.returncode == 0, refitted.stderr
    assert json.loads(refitted.stdout)["test"] is None
    for command in (["evaluate", final], ["analyze", final, "ranks", "--out", tmp_path / "page"]):
        refused = call_rearec(*command)
        assert refused.returncode == 2 and "a refit, trained on every interaction" in refused.stderr
    assert call_rearec("recommend", final, "item-001", "-k", "3", "--json").returncode == 0


def test_what_is_printed_as_a_configuration_reads_back_to_the_same_run(
    prepared: Path, tmp_path: Path, config: Path, call_rearec: Any
) -> None:
    asked = ("train", prepared, "--out", tmp_path / "run", "--print-config")
    first = call_rearec(*asked, "--config", config, "--seed", "4", "--method", "erl", "--keep-seen")
    assert first.returncode == 0, first.stderr
    values = yaml.safe_load(first.stdout)
    assert (values["preset"], values["method"], values["steps"], values["seed"]) == ("best", "erl", 1, 4)
    assert values["exclude_seen"] is False and values["epochs"] == 2
    # erl does not read it
    assert "cl_weight" not in values and "--cl-weight is ignored: erl does not read it" in first.stderr
    (tmp_path / "again.yaml").write_text(first.stdout)
    again = call_rearec(*asked, "--config", tmp_path / "again.yaml")
    assert again.stdout == first.stdout and "ignored" not in again.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimm: 16", "dimm is no option of 'rearec train'; did you mean dim?"),
        ("epochs: many", "epochs: "),
        ("method: fast", "method: "),
        ("dim: [16, 32]", "dim: got [16, 32], expected one value"),
        ("batch-size: 16\nbatch_rows: 16", "batch_rows is there twice, under two of its names"),
        ("- dim", "expected names of options and their values"),
        ("dim: [", "not a readable yaml file"),
        ("!!python/object/apply:os.getcwd []", "not a readable yaml file"),
    ],
)
def test_a_configuration_that_is_wrong_names_its_file(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rearec.cli import main

    path = tmp_path / "run.yaml"
    path.write_text(text)
    arguments = ["rearec", "train", str(tmp_path), "--out", str(tmp_path / "run"), "--config", str(path)]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert f"{path}: {message}" in error and len(error.splitlines()) == 1


def test_resume_says_that_no_epoch_has_ended_and_holds_to_the_preset(
    prepared: Path, run_folder: Path, tmp_path: Path, call_rearec: Any
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    stored = json.loads((run_folder / "options.json").read_text())
    stored["training"]["epochs"] = 1
    (run / "options.json").write_text(json.dumps(stored))
    refused = call_rearec("train", prepared, "--out", run, "--resume", "--preset", "paper")
    assert refused.returncode == 2
    assert refused.stderr == "error: --preset: the run to resume was started with none, not paper\n"
    result = call_rearec("train", prepared, "--out", run, "--resume", "--init", run_folder)
    assert result.returncode == 0, result.stderr
    assert f"{run} has ended no epoch yet: starting anew with its settings" in result.stderr
    assert f"begins with the weights of {run_folder.resolve()}, items: 40 known, 0 new, 0 dropped" in result.stderr
    assert json.loads((run / "options.json").read_text())["model"] == stored["model"]


def test_a_busy_machine_is_told_once(
    prepared: Path, tmp_path: Path, config: Path, call_rearec: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    asked = ("train", prepared, "--out", tmp_path / "run", "--device", "cpu", "--logger", "none")
    result = call_rearec(*asked, "--config", config)
    assert result.returncode == 0, result.stderr
    line = "--threads 1 may be faster: other work keeps the processors busy"
    assert result.stderr.splitlines().count(line) == 1
    # what contradicts the run is told by the options that were given
    refused = call_rearec(*asked, "--resume", "--exclude-seen")
    assert refused.returncode == 2
    wanted = "--exclude-seen/--keep-seen: the run to resume was started with --keep-seen, not --exclude-seen"
    assert refused.stderr == f"error: {wanted}\n"

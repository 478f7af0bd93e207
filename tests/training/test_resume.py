"""A training killed in mid-epoch leaves nothing that looks finished, and resumes to the same numbers."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE

OPTIONS = (
    *("--method", "prl", "--dim", "16", "--ffn", "16", "--layers", "1", "--max-len", "8", "--alpha", "1.5"),
    *("--epochs", "4", "--batch-size", "64", "--lr", "0.01", "--warmup", "1", "--schedule", "cosine"),
    *("--lr-warmup", "5", "--threads", "1", "--device", "cpu", "--seed", "3"),
)
# A process that kills itself, as the kernel would, after the fifth batch of the third epoch.
KILLED = """
import os, signal, sys
import rearec.training as training

train = training.train

def killed(*arguments, **options):
    def on_batch(epoch, done, total):
        assert total > 5
        if (epoch, done) == (3, 5):
            os.kill(os.getpid(), signal.SIGKILL)

    return train(*arguments, **{**options, "on_batch": on_batch})

training.train = killed
from rearec.cli import main
main()
"""
TIMINGS = ("train_seconds", "valid_seconds", "rows_per_second")


def metrics_of(run: Path) -> list[dict[str, Any]]:
    with (run / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name not in TIMINGS} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory, call_rearec: Any) -> tuple[Path, Path]:
    """An uninterrupted run, and one that was killed in mid-epoch and not yet resumed."""
    folder = tmp_path_factory.mktemp("runs")
    whole, broken = folder / "whole", folder / "broken"
    finished = call_rearec("train", prepared, "--out", whole, *OPTIONS)
    assert finished.returncode == 0, finished.stderr
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, "train", str(prepared), "--out", str(broken), *OPTIONS],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    return whole, broken


def test_killed_training_does_not_look_finished_and_resumes_to_bit_equal_metrics(
    runs: tuple[Path, Path], prepared: Path, run_rearec: Any, call_rearec: Any
) -> None:
    whole, broken = runs
    assert not (broken / "result.json").exists()
    assert not (broken / "model.safetensors").exists()
    assert len(metrics_of(broken)) == 2
    refused = call_rearec("recommend", broken, "item-001")
    assert refused.returncode == 2
    assert "did not finish" in refused.stderr

    # the options come from the interrupted run
    resumed = run_rearec("train", prepared, "--out", broken, "--resume", "--threads", "1", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch   3" in resumed.stderr and "epoch   2" not in resumed.stderr

    assert metrics_of(broken) == metrics_of(whole)
    assert (broken / "result.json").read_bytes() == (whole / "result.json").read_bytes()
    assert (broken / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert json.loads(resumed.stdout)["test"] == json.loads((whole / "result.json").read_text())["test"]


def test_resume_of_a_finished_run_exits_with_0_and_says_so(
    runs: tuple[Path, Path], prepared: Path, call_rearec: Any
) -> None:
    whole, _ = runs
    before = (whole / "model.safetensors").stat().st_mtime_ns
    again = call_rearec("train", prepared, "--out", whole, "--resume", "--json")
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stderr
    assert json.loads(again.stdout)["best_epoch"] == json.loads((whole / "result.json").read_text())["best_epoch"]
    contradicted = call_rearec("train", prepared, "--out", whole, "--resume", "--tau", "0.5")
    assert contradicted.returncode == 2
    assert contradicted.stderr == "error: --tau: the run to resume was started with 0.07, not 0.5\n"
    assert (whole / "model.safetensors").stat().st_mtime_ns == before


def test_resume_with_a_contradicting_option_is_an_error_that_names_it(
    runs: tuple[Path, Path], prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    whole, _ = runs
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    (unfinished / "options.json").write_bytes((whole / "options.json").read_bytes())
    (unfinished / "checkpoints").mkdir()
    (unfinished / "checkpoints" / "last.ckpt").write_bytes((whole / "checkpoints" / "last.ckpt").read_bytes())
    refused = call_rearec("train", prepared, "--out", unfinished, "--resume", "--tau", "0.5")
    assert refused.returncode == 2
    assert refused.stderr == "error: --tau: the run to resume was started with 0.07, not 0.5\n"

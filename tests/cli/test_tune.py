"""``rearec tune`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rearec.cli.app import app
from rearec.data.synthetic import Planted, generate

TINY = [f"--set={text}" for text in ("dim=8", "ffn=8", "layers=1", "max_len=8", "epochs=1", "batch_rows=128")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tune") / "small"
    generate(0, planted=Planted(users=40, themes=3, items_per_theme=5), out=out)
    return out


def test_trials_side_by_side_and_the_same_command_goes_on(data: Path, tmp_path: Path, call_rearec: Any) -> None:
    asked = ("tune", data, "--out", tmp_path / "s", "--search", "steps=1:2", *TINY, "--threads", "1", "--device", "cpu")
    first = call_rearec(*asked, "--trials", "3", "--jobs", "2", "--json")
    assert first.returncode == 0, first.stderr
    result = json.loads(first.stdout)
    assert [trial["state"] for trial in result["trials"]] == ["complete"] * 3
    assert Path(result["run"], "model.safetensors").is_file() and result["settings"]["dim"] == 8
    lines = [line for line in first.stderr.splitlines() if line.startswith("trial ")]
    assert len(lines) == 3 and all("valid NDCG@20 0." in line and "steps " in line for line in lines)

    again = call_rearec(*asked, "--trials", "3", "--resume")
    assert again.returncode == 0, again.stderr
    assert "going on with a study of 3 trials" in again.stderr
    assert f"best: trial {result['trial']}, validation NDCG@20 {result['valid_ndcg@20']:.4f}" in again.stdout
    assert f"the best training: {tmp_path / 's' / 'best'}" in again.stdout and "popularity" in again.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--search", "lr"), "--search lr: expected name=low:high"),
        (("--search", "tau=0.1:1"), "--search tau: unknown setting"),
        (("--set", "lr"), "expected name=value"),
        (("--set", "seed=3"), "--set seed: is chosen by --seed"),
        (("--set", "exclude_seen=true"), "is chosen by --exclude-seen or --keep-seen"),
        (("--method", "cot"), "'cot' is not one of"),
        (("--backbone", "unisrec"), "make them with 'rearec embed DIR'"),
        (("--resume",), "there is no study to resume"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["tune", str(data), "--out", str(tmp_path / "s"), *arguments])
    assert result.exit_code == 2 and message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "s").exists()

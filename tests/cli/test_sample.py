"""``rearec sample`` and the commands that it leads to."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

from rearec.data import load_dataset


def run(*arguments: str, folder: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rearec", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert result.returncode == code, result.stderr
    return result


def test_the_command_that_it_prints_prepares_it(tmp_path: Path) -> None:
    said = json.loads(run("sample", "--json", folder=tmp_path).stdout)
    assert said["file"] == "events.csv" and said["events"] > 10_000
    program, *arguments = shlex.split(said["next"])
    assert program == "rearec"
    prepared = json.loads(run(*arguments, "--json", folder=tmp_path).stdout)
    assert prepared["next"] == "rearec train data --out run --method prl"
    # Order matters in it: what follows the last item is far from what is popular.
    assert prepared["markov"]["ndcg@20"] > 3 * prepared["popularity"]["ndcg@20"]
    dataset = load_dataset(tmp_path / "data")
    assert dataset.item_titles is not None and all(dataset.item_titles)
    assert dataset.num_interactions == said["events"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    (tmp_path / "my events.csv").write_text("mine")
    arguments = ("sample", "--out", "my events.csv")
    result = run(*arguments, folder=tmp_path, code=2)
    assert result.stderr == "error: my events.csv: exists; use --force to replace it\n"
    assert (tmp_path / "my events.csv").read_text() == "mine"
    result = run(*arguments, "--force", folder=tmp_path)
    assert "next: rearec prepare table 'my events.csv' --user-column user" in result.stdout
    assert (tmp_path / "my events.csv").read_text().startswith("user,item,time,title\n")
    assert run("sample", "--out", ".", folder=tmp_path, code=2).stderr.startswith("error: .: is a folder")

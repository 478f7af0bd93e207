"""Who comes for the first time: what the README shows, as it stands, in an empty folder; and the numbers are good."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def block(language: str, holds: str) -> str:
    """The README's block of this language that holds this text."""
    found = re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)
    return next(text for text in found if holds in text)


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With the `rearec` of this installation on PATH, as in an activated virtual environment."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    command = scripts / "rearec"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rearec "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def shape(text: str) -> list[str]:
    """The lines of an output without their numbers, paths and titles."""
    text = re.sub(r"'[^']*'", "'title'", text)
    return [re.sub(r"/\S+(?=\))", "FOLDER", re.sub(r"\d[\d,.]*", "N", line)).rstrip() for line in text.splitlines()]


# The code of the README as it stands, but that its training ends after two epochs; it says last what it was asked for.
TWO_EPOCHS = """
import dataclasses, json, sys
from rearec.facade import fitting

settings_for = fitting.settings_for

def settings_for_two_epochs(*arguments, **settings):
    config, options = settings_for(*arguments, **settings)
    asked.extend(map(dataclasses.asdict, (config, options)))
    return config, dataclasses.replace(options, epochs=2)

asked = []
fitting.settings_for = settings_for_two_epochs
"""
TELL = """
json.dump([*asked, model.history], sys.stderr)
"""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=5 * PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr
    return done


def test_what_the_readme_shows(tmp_path: Path, environment: dict[str, str]) -> None:
    """The commands, and then the ten lines that train the same model: its first epochs give the same numbers."""
    folder = tmp_path / "empty"
    folder.mkdir()
    done = run(["bash", "-euo", "pipefail", "-c", block("bash", "rearec sample")], folder, environment)
    result = json.loads((folder / "run" / "result.json").read_text())
    test = result["test"]
    assert test["ndcg@20"] > 1.2 * max(test[floor]["ndcg@20"] for floor in ("popularity", "markov", "itemknn", "rules"))
    # three answers, each with a title of the table of events
    answer = done.stdout.splitlines()[-5:]
    titles = {line.split(",")[-1] for line in (folder / "events.csv").read_text().splitlines()[1:]}
    assert sum(any(title in line for title in titles) for line in answer) == 3, done.stdout

    code = block("python", "from_frame")
    assert len(code.strip().splitlines()) <= 10
    done = run([sys.executable, "-c", TWO_EPOCHS + code + TELL], tmp_path, environment)
    # what the README shows is what comes out, but for the numbers
    assert shape(done.stdout) == shape(block("text", "FittedModel"))
    config, options, history = json.loads(done.stderr.splitlines()[-1])
    settings = json.loads((folder / "run" / "options.json").read_text())
    assert config == settings["model"]
    assert options == {**settings["training"], "exclude_seen": None}  # the dataset's, which the command has looked up
    with (folder / "run" / "metrics.csv").open() as file:
        rows = [*csv.DictReader(file)][:2]
    assert len(history) == 2
    for row, epoch in zip(rows, history, strict=True):
        names = [name for name in epoch if name.startswith(("train_loss", "valid_ndcg", "valid_recall"))]
        assert len(names) == 5 and {name: float(row[name]) for name in names} == {name: epoch[name] for name in names}

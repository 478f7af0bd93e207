"""Who comes for the first time: what the README shows, as it stands, in an empty folder; and the numbers are good."""

from __future__ import annotations

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
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rearec.cli "$@"\n')
    command.chmod(0o755)
    return {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}


def shape(text: str) -> list[str]:
    """The lines of an output without their numbers, paths and titles."""
    text = re.sub(r"'[^']*'", "'title'", text)
    return [re.sub(r"/\S+(?=\))", "FOLDER", re.sub(r"\d[\d,.]*", "N", line)).rstrip() for line in text.splitlines()]


def test_the_commands_of_the_readme(tmp_path: Path, environment: dict[str, str]) -> None:
    commands = block("bash", "rearec sample")
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((folder / "run" / "result.json").read_text())
    test = result["test"]
    assert test["ndcg@20"] > 1.2 * max(test[floor]["ndcg@20"] for floor in ("popularity", "markov", "itemknn", "rules"))
    # three answers, each with a title of the table of events
    answer = done.stdout.splitlines()[-5:]
    titles = {line.split(",")[-1] for line in (folder / "events.csv").read_text().splitlines()[1:]}
    assert sum(any(title in line for title in titles) for line in answer) == 3, done.stdout


def test_ten_lines_from_a_frame_to_recommendations(tmp_path: Path, environment: dict[str, str]) -> None:
    code = block("python", "from_frame")
    assert len(code.strip().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.strip().startswith("test:"))
    model = float(re.findall(r"\d\.\d+", line)[0])
    floors = re.findall(r"\b(popularity|markov|itemknn|rules) (\d\.\d+)", line)
    assert len(floors) == 4 and model > 1.2 * max(float(value) for _, value in floors)
    # what the README shows is what comes out, but for the numbers
    assert shape(done.stdout) == shape(block("text", "FittedModel"))

"""``rearec audit`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rearec.cli.app import app

pytestmark = pytest.mark.usefixtures("quick_figures")


def test_a_dataset_and_a_run(prepared: Path, run_folder: Path, tmp_path: Path) -> None:
    asked = ["audit", str(prepared), str(run_folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    first = CliRunner().invoke(app, asked)
    assert first.exit_code == 0, first.stderr
    table = first.stdout[first.stdout.index("NDCG@20  ") : first.stdout.index("no *:")].splitlines()
    assert [line.split()[0] for line in table[1:]] == ["run", "popularity", "markov", "itemknn", "rules"]
    assert "training later than the test: not known: no timestamps" in first.stdout
    assert "the target followed the last item at least once in training" in first.stdout
    assert f"written: {tmp_path / 'out' / 'audit.md'}" in first.stdout and "seen items kept" in first.stderr
    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2 and "exists already; --force replaces it" in again.stderr

    alone = CliRunner().invoke(app, [*asked[:2], *asked[3:], "--force", "--json", "--split", "valid", "--exclude-seen"])
    assert alone.exit_code == 0, alone.stderr
    result = json.loads(alone.stdout)
    assert result["runs"] == {} and (result["split"], result["seen"]) == ("valid", "excluded")
    assert result["shares"]["followed_last"].keys() == {"count", "of", "share"}


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        ("nowhere", (), "nowhere: no such directory"),
        (None, ("nowhere",), "nowhere: no such folder; expected the RUN folder"),
        (None, ("--split", "train"), "'train' is not one of"),
    ],
)
def test_what_cannot_be_audited_is_one_line(
    data: str | None, arguments: tuple[str, ...], message: str, prepared: Path, tmp_path: Path
) -> None:
    asked = ["audit", data or str(prepared), *arguments, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 2 and message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "out").exists()

"""``rearec compare`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rearec.cli.app import app

pytestmark = pytest.mark.usefixtures("quick_figures")


def test_two_runs_are_compared_and_the_terminal_shows_60_columns(run_folder: Path, tmp_path: Path) -> None:
    asked = ["compare", str(run_folder), str(run_folder), "--out", str(tmp_path / "out"), "--device", "cpu"]
    first = CliRunner().invoke(app, [*asked, "--metrics", "ndcg,mrr", "-k", "5", "--against", "markov"])
    assert first.exit_code == 0, first.stderr
    table = first.stdout.split("no *:")[0].splitlines()[1:]
    assert max(map(len, table)) <= 60 and any(line.startswith("NDCG@5") for line in table)
    assert f"written: {tmp_path / 'out' / 'comparison.md'}" in first.stdout
    assert "seen items kept" in first.stderr

    again = CliRunner().invoke(app, asked)
    assert again.exit_code == 2 and "exists already; --force replaces it" in again.stderr
    forced = CliRunner().invoke(app, [*asked, "--force", "--json", "--users-by", "none", "--metrics", "recall@3"])
    assert forced.exit_code == 0, forced.stderr
    result = json.loads(forced.stdout)
    assert {line["metric"] for line in result["table"]} == {"recall@3"} and result["seen"] == "kept"
    assert {line["grouping"] for line in result["groups"]} == {"items_by_popularity"}
    assert result["table"][1]["difference"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "gain@5"), "unknown metric 'gain@5'"),
        (("--against", "nobody"), "against: 'nobody' is none of what is compared"),
        (("--data", "nowhere"), "nowhere: no such directory"),
        (("--users-by", "age"), "'age' is not one of"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run_folder: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(app, ["compare", str(run_folder), "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2 and message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "out").exists()

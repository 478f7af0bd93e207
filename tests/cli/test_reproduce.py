"""``rearec reproduce`` as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rearec.cli.app import app
from rearec.data.synthetic import Planted, generate

TINY = ("--dim", "8", "--epochs", "2", "--batch-size", "128", "--threads", "1", "--device", "cpu")
TINY += ("--set", "ffn=8", "--set", "layers=1", "--set", "max_len=8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reproduce") / "small"
    generate(0, planted=Planted(users=40, themes=3, items_per_theme=5), out=out)
    return out


def test_a_budget_leaves_a_partial_page_and_the_same_command_goes_on(
    data: Path, tmp_path: Path, call_rearec: Any
) -> None:
    out = tmp_path / "out"
    asked = (
        "reproduce",
        "table2",
        "fig11",
        data,
        "--out",
        out,
        "--backbones",
        "sasrec",
        "--methods",
        "base,prl",
        *TINY,
    )
    nothing = call_rearec(*asked, "--budget-minutes", "0")
    assert nothing.returncode == 0, nothing.stderr
    assert "0 of 2 trainings are finished" in nothing.stdout
    assert "not trained yet: the budget was over" in (out / "table2.md").read_text()

    finished = call_rearec(*asked, "--jobs", "2", "--json")
    assert finished.returncode == 0, finished.stderr
    result = json.loads(finished.stdout)
    assert result["missing"] == {} and result["failed"] == [] and result["finished"] == 2
    first, *lines = finished.stderr.splitlines()
    assert first == "2 trainings are needed, 0 of them are finished" and len(lines) == 2
    assert all("valid NDCG@20 0." in line and " min  " in line for line in lines)
    assert "1 left, about" in lines[0] and lines[1].endswith("0 left")
    assert {line.split("-")[1] for line in lines} == {"base", "prl"}
    assert "Missing" not in (out / "table2.md").read_text()
    assert (out / "table2.png").is_file() and (out / "fig11.md").is_file()

    # All is trained: the pages are written again, from the same numbers.
    before = (out / "table2.csv").read_bytes()
    again = call_rearec(*asked)
    assert again.returncode == 0 and again.stderr == "2 trainings are needed, 2 of them are finished\n"
    assert f"table2: {out / 'table2.md'}" in again.stdout and "2 of 2 trainings are finished" in again.stdout
    assert (out / "table2.csv").read_bytes() == before


def test_a_run_that_fails_is_named_and_the_others_are_kept(data: Path, tmp_path: Path, call_rearec: Any) -> None:
    asked = ("reproduce", "fig4", data, "--out", tmp_path / "out", "--methods", "base,prl", "--steps", "2", *TINY)
    # So strong an annealing leaves prl's first temperatures without a number; base does not read it.
    failed = call_rearec(*asked, "--set", "alpha=1e30")
    assert failed.returncode == 1
    assert "FAILED" in failed.stderr and "valid NDCG@20" in failed.stderr
    assert "1 of 2 trainings are finished" in failed.stdout
    assert "sasrec-prl-k2-tau0.07-alpha1e+30" in failed.stdout
    page = (tmp_path / "out" / "fig4.md").read_text()
    assert "**Missing:**" in page and "sasrec-prl-k2-tau0.07-alpha1e+30" in page and "base_se" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table9",), "'table9' is not one of"),
        (("table2", "--backbones", "gru4rec"), "unknown backbone 'gru4rec'; known are sasrec"),
        (("table2", "--methods", "base,cot"), "unknown method 'cot'; known are base, naive, rpe, erl, prl"),
        (("table2", "--set", "dropout"), "expected name=value"),
        (("table2", "--set", "tau=1"), "unknown setting 'tau'"),
        (("table3",), "make them with 'rearec embed DIR'"),
        (("table2", "--protocol", "recbole4"), "--protocol: got 'recbole4', expected one of recbole3"),
        (("table2", "--protocol", "recbole3"), "--protocol recbole3: expected data of 'rearec prepare amazon2023 FILE"),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    name, *options = arguments
    result = CliRunner().invoke(app, ["reproduce", name, str(data), "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 2 and message in re.sub(r"[\s│]+", " ", result.stderr)
    assert not (tmp_path / "out").exists()


def test_a_protocol_without_data_prints_the_commands_that_make_its_tables() -> None:
    result = CliRunner().invoke(app, ["reproduce", "table2", "--protocol", "recbole3"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert (
        "71b0d83" in lines[0] and "rearec prepare amazon2023 Musical_Instruments.csv --split leave-one-out" in lines[2]
    )
    assert lines[3].startswith("rearec reproduce table2 Musical_Instruments --protocol recbole3 --out ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table2",), "got table2 alone, expected ARTEFACT... and then DIR"),
        (("table2", "data"), "--out: missing, expected a folder for the pages"),
        (("--protocol", "recbole3"), "--protocol recbole3: got no table or figure, expected ARTEFACT..."),
        (("table2", "data", "--protocol", "recbole3"), "got data without --out"),
    ],
)
def test_what_is_missing_is_named(arguments: tuple[str, ...], message: str) -> None:
    result = CliRunner().invoke(app, ["reproduce", *arguments])
    assert result.exit_code == 2 and message in result.stderr and result.stderr.count("\n") == 1

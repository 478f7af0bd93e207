"""What commands print at the widths that terminals have: no cell is cut, no table is wider than the terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rearec.cli import terminal
from rearec.cli.app import app
from rearec.cli.output import metric_table
from rearec.cli.tables import Cell, FittingTable
from rearec.evaluation.metrics import METRICS

WIDTHS = (60, 80, 120)


def printed(*arguments: object, width: int) -> str:
    """What the command prints on a terminal of that width."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "stdout_terminal", lambda: terminal.Terminal(width=width))
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def check(text: str, width: int) -> None:
    assert "…" not in text
    # Single strings, paths above all, are lines of any length; the terminal wraps them.
    for line in text.splitlines():
        assert len(line) <= width or not re.search(r"\S {2,}\S|─", line), (width, line)


@pytest.mark.parametrize("width", WIDTHS)
def test_commands_fit(width: int, run_folder: Path, source_file: Path, tmp_path: Path) -> None:
    few = ("--rows", 8, "--repeats", 2)
    small = ("--dim", 8, "--ffn", 8, "--layers", 1, "--max-len", 8, "--epochs", 1, "--method", "base")
    for arguments in (
        ("info",),
        ("download",),
        ("prepare", "json", source_file, "--out", tmp_path / "data"),
        ("train", tmp_path / "data", "--out", tmp_path / "run", *small),
        ("evaluate", run_folder, "--by-step", "--users-by", "length", "--items-by", "popularity"),
        ("evaluate", run_folder, "--metrics", "ndcg,recall,hit,map,coverage,novelty,arp", "-k", "1,5,10,20"),
        ("analyze", run_folder, "all", "--out", tmp_path / "pages", *few),
        ("recommend", run_folder, "item-001", "item-010"),
    ):
        text = printed(*arguments, width=width)
        assert len(text.split()) > 5
        check(text, width)


@pytest.mark.parametrize("width", WIDTHS)
def test_metrics_of_large_data_fit(width: int) -> None:
    metrics = {name: 0.12345 for name in METRICS} | {f"{name}_se": 0.00123 for name in METRICS} | {"rows": 1_234_567}
    rows = {name: metrics for name in ("prl (validation)", "prl", "popularity", "markov")}
    console = terminal.Terminal(file=io.StringIO(), width=width)
    console.print(metric_table("Test rows, full catalogue", rows, seen="excluded"))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    check(text, width)
    for words in ("NDCG@10", "Recall@20", "MRR", "rows", "prl (validation)", "markov"):
        assert words in text
    assert text.count("0.1235") + text.count("0.1234") == 20 and text.count("1,234,567") == 4
    assert text.count("0.1235 ± 0.0012") + text.count("0.1234 ± 0.0012") == 4


@pytest.mark.parametrize("width", [30, 60, 120])
@pytest.mark.parametrize(("lines", "columns"), [(1, 1), (2, 12), (12, 2), (7, 7)])
@pytest.mark.parametrize("name", ["a", "a name of several words that is long", "x" * 100])
def test_a_table_keeps_every_cell_in_some_form(width: int, lines: int, columns: int, name: str) -> None:
    cells = [
        [Cell(f"{line}.{column:02}", f"± .{line}{column:02}") for column in range(columns)] for line in range(lines)
    ]
    table = FittingTable(
        "", [f"c{i}" for i in range(columns)], [(f"{name} {i}", row) for i, row in enumerate(cells)], True
    )
    console = terminal.Terminal(file=io.StringIO(), width=width)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    check(text, width)
    assert max(map(len, text.splitlines())) <= width
    for row in cells:
        assert all(cell.text(True) in text for cell in row)

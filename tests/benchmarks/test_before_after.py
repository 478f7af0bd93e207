"""benchmarks/before_after.py: this install beside itself, and what it makes of times."""

from __future__ import annotations

import json
from pathlib import Path

import before_after
import pytest
from before_after_worker import CASES

import rearec_kernels


def test_an_install_beside_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree, out = Path(rearec_kernels.__file__).parents[1], tmp_path / "it.json"
    chosen = ["rearec --help", "one decode"]
    before_after.main([str(tree), str(tree), "--runs", "2", "--pairs", "2", "--out", str(out), "--only", *chosen])
    cases = json.loads(out.read_text())["cases"]
    assert list(cases) == ["one decode step, R 1", "rearec --help"]
    for times in cases.values():
        assert [len(turns) for which in ("before", "after") for turns in times[which]] == [2, 2, 2, 2]
        assert all(ratio > 0 for ratio in before_after.ratios(times))
    table = out.with_suffix(".md").read_text()
    assert table in capsys.readouterr().out
    assert "| one decode step, R 1 | " in table and str(tmp_path) not in table


def test_a_ratio_is_of_the_medians_of_one_pair() -> None:
    times = {"before": [[1.0, 9.0, 2.0], [4.0, 4.0, 1.0]], "after": [[3.0, 1.0, 8.0], [2.0, 2.0, 2.0]]}
    assert before_after.ratios(times) == [1.5, 0.5]


def test_a_place_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="nowhere: not there, expected a source tree or an interpreter"):
        before_after.main([str(tmp_path / "nowhere"), str(tmp_path)])


def test_a_worker_that_dies_is_named(tmp_path: Path) -> None:
    (tmp_path / "rearec_kernels.py").write_text("raise SystemExit(1)")
    with pytest.raises(SystemExit, match=r"one decode step, R 1: the worker of .* died"):
        before_after.main([str(tmp_path), str(tmp_path), "--only", "one decode"])


@pytest.mark.parametrize(
    "name",
    [
        *("attention with gradients, R 2", "loss with gradients, R 32"),
        *("training step, base, d 64, 512 rows", "recommend, R 1"),
    ],
)
def test_every_kind_of_case_can_be_made(name: str) -> None:
    make, _ = CASES[name]
    make()()

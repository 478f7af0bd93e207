"""The demonstration, at a tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rearec.data import load_dataset
from rearec.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("quick_figures")


def test_demo_trains_all_methods_and_leaves_runs_plots_and_a_report(tmp_path: Path, call_rearec: Any) -> None:
    out = tmp_path / "demo"
    tiny = ("demo", "--out", out, "--users", "60", "--epochs", "2")
    result = call_rearec(*tiny, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((out / "demo.json").read_text())
    assert load_dataset(out / "data").num_users == 60
    for method, states in (("base", 1), ("erl", 3), ("prl", 3)):
        assert RunFolder(out / method).finished
        assert len(report[method]["by_step"]) == states
        assert report[method]["rows"] == report["markov"]["rows"] == 60
        assert f"{method:<4}  epoch  2/2" in result.stderr
    for plot in ("validation", "steps", "test"):
        path = Path(report["plots"][plot])
        assert path.parent == out and path.read_bytes().startswith(b"\x89PNG")

    refused = call_rearec(*tiny)
    assert refused.returncode == 2 and "--force replaces it" in refused.stderr
    again = call_rearec(*tiny, "--force")
    assert again.returncode == 0, again.stderr
    # what is said before anything happens is short
    assert "look-ups" in again.stderr and len(again.stderr.split("epoch")[0]) < 400
    for words in ("popularity", "base", "erl", "prl", "plot of steps", "rearec recommend"):
        assert words in again.stdout
    assert f"names that begin with item-{report['example']['theme']}- are right" in " ".join(again.stdout.split())
    # the same seed gives the same figures
    rerun = json.loads((out / "demo.json").read_text())
    for key in ("seconds",):
        del rerun[key], report[key]
    assert rerun == report


def test_the_suggested_recommendation_works(tmp_path: Path) -> None:
    from rearec import Recommender
    from rearec.experiments.demo import EXAMPLE, run_demo

    out = tmp_path / "demo"
    run_demo(out, users=60, epochs=1)
    answer = Recommender(out / "erl").recommend([EXAMPLE])[0]
    assert answer.source == "model" and len(answer.items) == 10


def test_demo_does_not_touch_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    from rearec.errors import UserError
    from rearec.experiments.demo import run_demo

    (tmp_path / "thesis.txt").write_text("!")
    with pytest.raises(UserError, match="holds no demonstration"):
        run_demo(tmp_path, users=10, epochs=1, force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_demo_replaces_nothing_when_something_is_kept_in_one_of_its_runs(tmp_path: Path) -> None:
    from rearec.errors import UserError
    from rearec.experiments.demo import run_demo

    run_demo(tmp_path / "demo", users=20, epochs=1)
    (tmp_path / "demo" / "prl" / "thesis.txt").write_text("!")
    before = (tmp_path / "demo" / "data" / "dataset.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=r"prl: holds 'thesis\.txt'"):
        run_demo(tmp_path / "demo", users=20, epochs=1, force=True)
    assert (tmp_path / "demo" / "data" / "dataset.json").stat().st_mtime_ns == before

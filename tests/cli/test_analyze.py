"""``rearec analyze``: every analysis, what is refused, what is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rearec.cli.app import app
from rearec.data import load_dataset
from rearec.evaluation import evaluate
from rearec.evaluation.floors import FLOORS
from rearec.reasoning import ReaRec

pytestmark = pytest.mark.usefixtures("quick_figures")


def analyze(*arguments: object) -> Result:
    """``rearec analyze`` within this process."""
    return CliRunner().invoke(app, ["analyze", *map(str, arguments)])


@pytest.fixture(scope="module")
def base_runs(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three finished base runs with different seeds, one epoch each."""
    from rearec.models.config import ReaRecConfig
    from rearec.training import TrainingOptions, train

    folder = tmp_path_factory.mktemp("base")
    config = ReaRecConfig(load_dataset(prepared).num_items, method="base", dim=16, ffn=16, layers=1, max_len=8)
    runs = [folder / f"base-{seed}" for seed in range(3)]
    for seed, run in enumerate(runs):
        train(prepared, run, config, TrainingOptions(epochs=1, batch_rows=128, lr=1e-2, seed=seed))
    return runs


@pytest.mark.parametrize("analysis", ["steps", "similarity", "ranks", "case", "latency"])
def test_an_analysis_prints_its_result_and_leaves_a_page(analysis: str, run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    options = {"latency": ["--rows", "8", "--repeats", "2"], "case": ["--cases", "2", "-k", "3"]}.get(analysis, [])
    result = analyze(run_folder, analysis, "--out", out, *options, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["run"], report["analysis"], report["split"]) == (str(run_folder), analysis, "test")
    files = [out / f"{analysis}.{extension}" for extension in ("csv", "png", "md")]
    assert report["files"] == [str(file) for file in files] and sorted(out.iterdir()) == sorted(files)
    assert (out / f"{analysis}.md").read_text().startswith("# ")
    if analysis == "case":
        assert len(report["result"]) == 2 and all(len(top) == 3 for top in report["result"][0]["top"])
    elif analysis == "steps":
        assert len(report["result"]["by_step"]) == 3
    else:
        assert len(report["result"]) == 3


def test_steps_are_those_of_the_evaluation_and_are_shown_without_json(
    run_folder: Path, prepared: Path, tmp_path: Path, call_rearec: Any
) -> None:
    expected = evaluate(
        ReaRec.from_pretrained(run_folder), load_dataset(prepared), "valid", per_step=True, floors=False
    )
    result = call_rearec("analyze", run_folder, "steps", "--out", tmp_path, "--split", "valid")
    assert result.returncode == 0, result.stderr
    assert "prl: run" in result.stdout and f"{expected['by_step'][2]['ndcg@20']:.4f}" in result.stdout
    assert f"written: {tmp_path / 'steps.md'}" in result.stdout
    refused = analyze(run_folder, "steps", "--out", tmp_path)
    assert refused.exit_code == 2 and "steps.md: exists already; --force replaces it" in refused.stderr
    # another analysis has files of its own
    again = analyze(run_folder, "steps", "--out", tmp_path, "--split", "valid", "--force", "--json")
    shown = json.loads(again.stdout)["result"]
    assert all(shown["by_step"][step].items() >= each.items() for step, each in enumerate(expected["by_step"]))
    assert {name: shown[name] for name in ("ndcg@20", "rows", "seen")} == {
        name: expected[name] for name in ("ndcg@20", "rows", "seen")
    }


def test_ceiling_beside_its_control(run_folder: Path, base_runs: list[Path], tmp_path: Path) -> None:
    against = [word for run in base_runs for word in ("--against", run)]
    result = analyze(run_folder, "ceiling", "--out", tmp_path / "a", *against, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)["result"]
    assert report["states"] == 3 and report["control"]["ndcg@20"] > report["base"]["ndcg@20"]
    assert report["best"]["ndcg@20"] >= report["last"]["ndcg@20"]
    assert report["over_control"]["low"] < report["over_control"]["high"]
    page = (tmp_path / "a" / "ceiling.md").read_text()
    assert "A ceiling below its control is noise" in page and "the control is" in page

    alone = analyze(run_folder, "ceiling", "--out", tmp_path / "b")
    assert alone.exit_code == 0 and "prl: run, 3 states" in alone.stdout
    assert "no control here" in (tmp_path / "b" / "ceiling.md").read_text()


def test_a_wrong_control_is_refused(run_folder: Path, base_runs: list[Path], tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(base_runs[0], copied)
    for against, message in (
        (base_runs[:2], "--against: got 2 runs, expected 3 base runs: one for each state of RUN"),
        ([*base_runs[:2], run_folder], "--against: names a run twice"),
        ([*base_runs[:2], copied], "have the same seed 0"),
    ):
        words = [word for run in against for word in ("--against", run)]
        result = analyze(run_folder, "ceiling", "--out", tmp_path / "out", *words)
        assert result.exit_code == 2 and message in result.stderr
    # a base run as RUN has one state, and so a control of one, which must be a base run
    result = analyze(base_runs[0], "ceiling", "--out", tmp_path / "out", "--against", run_folder)
    assert result.exit_code == 2 and "is of method prl; the control is of base runs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_all_analyses_share_one_model_and_one_index(run_folder: Path, base_runs: list[Path], tmp_path: Path) -> None:
    against = [word for run in base_runs for word in ("--against", run)]
    few = ("--rows", 8, "--repeats", 2, "--cases", 1, "-k", 3, "--metric", "hit@5", "--format", "svg,pdf")
    result = analyze(run_folder, "all", "--out", tmp_path, *against, *few, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    names = ["steps", "ceiling", "subgroups", "latency", "similarity", "ranks", "case"]
    assert list(report["result"]) == names and report["left_out"] == {} and report["analysis"] == "all"
    assert report["result"]["ceiling"]["metric"] == "hit@5" and report["result"]["ceiling"]["control"]
    assert {row["model"] for row in report["result"]["subgroups"]} >= {"prl: run", "base: base-0", "base: base-2"}
    expected = {f"{name}.{kind}" for name in names for kind in ("md", "csv", "svg", "pdf")} | {"index.md"}
    assert {path.name for path in tmp_path.iterdir()} == expected == {Path(file).name for file in report["files"]}
    index = (tmp_path / "index.md").read_text()
    assert all(f"]({name}.md): " in index for name in names)
    refused = analyze(run_folder, "all", "--out", tmp_path)
    assert refused.exit_code == 2 and "exists already; --force replaces it" in refused.stderr


def test_all_leaves_out_what_says_nothing_and_runs_that_are_no_control(
    run_folder: Path, base_runs: list[Path], tmp_path: Path
) -> None:
    result = analyze(base_runs[0], "all", "--out", tmp_path / "base", "--against", run_folder)
    assert result.exit_code == 0, result.stderr
    assert "left out: steps: the model (base) takes no reasoning steps" in result.stdout
    assert f"written: {tmp_path / 'base' / 'index.md'}, which leads to the pages of all" in result.stdout
    assert sorted(path.name for path in (tmp_path / "base").glob("*.md")) == ["index.md", "subgroups.md"]
    few = ("--rows", 8, "--repeats", 2)
    result = analyze(run_folder, "all", "--out", tmp_path / "prl", "--against", base_runs[0], *few)
    assert result.exit_code == 0, result.stderr
    assert "ceiling is without a control: got 1 runs, expected 3 base runs" in result.stderr
    assert "base: base-0" in (tmp_path / "prl" / "subgroups.md").read_text()


def test_subgroups_of_several_runs(run_folder: Path, base_runs: list[Path], tmp_path: Path) -> None:
    result = analyze(run_folder, "subgroups", "--out", tmp_path, "--against", base_runs[1], "--json")
    assert result.exit_code == 0, result.stderr
    models = {row["model"] for row in json.loads(result.stdout)["result"]}
    assert models == {"prl: run", "base: base-1", *FLOORS}
    assert (
        "| by | group | rows | prl: run | base: base-1 | popularity | markov | itemknn | rules |"
        in (tmp_path / "subgroups.md").read_text()
    )


def test_what_does_not_fit_is_refused_before_anything_is_written(
    run_folder: Path, base_runs: list[Path], tmp_path: Path
) -> None:
    from rearec.data import prepare

    source = tmp_path / "other.json"
    source.write_text(json.dumps({f"u{user}": [f"i{item}" for item in range(4)] for user in range(5)}))
    prepare("json", [source], tmp_path / "other", split="leave-one-out")
    (tmp_path / "file").write_text("")
    out = tmp_path / "out"
    for arguments, message in (
        ([run_folder, "steps", "--out", out, "--rows", "3"], "--rows: belongs to latency and similarity, not steps"),
        ([run_folder, "ranks", "--out", out, "-k", "3"], "-k: belongs to case, not ranks"),
        ([run_folder, "steps", "--out", out, "--against", base_runs[0]], "--against: belongs to ceiling and subgroups"),
        ([run_folder, "steps", "--out", out, "--data", tmp_path / "other"], "not the dataset of"),
        ([run_folder, "steps", "--out", out, "--format", "png,gif"], "--format: got 'gif', expected some of png, svg"),
        ([run_folder, "steps", "--out", out, "--metric", "coverage@5"], "coverage@5 is about lists of items"),
        ([run_folder, "steps", "--out", out, "--metric", "ndcg@5000"], "'ndcg@5000' has k = 5000, expected 1 to 40"),
        ([run_folder, "steps", "--out", tmp_path / "file"], "exists and is not a folder"),
        ([run_folder, "steps", "--out", tmp_path / "file" / "x"], "is a file, not a folder"),
        ([run_folder, "subgroups", "--out", out, "--against", tmp_path], "not a RUN folder"),
        ([base_runs[0], "case", "--out", out], "does not reason: there are no cases"),
    ):
        result = analyze(*arguments)
        assert result.exit_code == 2, arguments
        assert message in result.stderr.splitlines()[-1], (arguments, result.stderr)
        assert result.stdout == "" and "Traceback" not in result.stderr
    assert not out.exists()
    for arguments in ([run_folder, "magic", "--out", out], [run_folder, "steps"]):
        result = analyze(*arguments)
        assert result.exit_code == 2 and "Traceback" not in result.stderr

"""Seen items and metrics on the command line: both ways, what a run remembers, what every table and json says."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from repeating_data import repeating_dataset
from typer.testing import CliRunner, Result

from rearec.cli.app import app
from rearec.data import load_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate, seen_items
from rearec.evaluation.measured import floor_metrics
from rearec.evaluation.metrics import METRICS
from rearec.experiments.plan import Plan
from rearec.experiments.runs import Run
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.report.floors import floors_of
from rearec.run_folder import RunFolder
from rearec.training import TrainingOptions, train

pytestmark = pytest.mark.usefixtures("quick_figures")

TINY = ("--dim", "8", "--ffn", "8", "--layers", "1", "--max-len", "8", "--epochs", "2", "--batch-size", "256")
BOTH = pytest.mark.parametrize(("flag", "seen"), [("--keep-seen", "kept"), ("--exclude-seen", "excluded")])


def rearec(*arguments: object) -> Result:
    """``rearec`` within this process."""
    return CliRunner().invoke(app, [*map(str, arguments)])


def answer(*arguments: object) -> dict[str, Any]:
    """What it prints with ``--json``."""
    result = rearec(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset in which no target is in its history."""
    folder = tmp_path_factory.mktemp("fresh")
    histories = {f"u{user}": [f"i{(user * 7 + 5 * place) % 30}" for place in range(5 + user % 3)] for user in range(60)}
    (folder / "source.json").write_text(json.dumps(histories))
    assert rearec("prepare", "json", folder / "source.json", "--out", folder / "data").exit_code == 0
    return folder / "data"


@pytest.fixture(scope="module")
def excluding(fresh: Path) -> Path:
    """A run on it, with the default."""
    out = fresh.parent / "run"
    result = rearec("train", fresh, "--out", out, *TINY)
    assert result.exit_code == 0, result.stderr
    assert "seen items excluded: 0 of 60 validation rows ask for an item of their history" in result.stderr
    assert "Full catalogue, seen items excluded" in result.stdout
    return out


@BOTH
def test_prepare_measures_the_floors_both_ways(source_file: Path, tmp_path: Path, flag: str, seen: str) -> None:
    report = answer("prepare", "json", source_file, "--out", tmp_path / "data", flag)
    floors = floor_metrics(load_dataset(tmp_path / "data"), "test", exclude_seen=seen == "excluded")
    assert report["seen"] == seen
    assert floors_of(report) == floors
    shown = rearec("prepare", "json", source_file, "--out", tmp_path / "data", flag, "--force")
    assert f"full catalogue, seen items {seen}" in shown.stdout and "as asked for" in shown.stderr


def test_prepare_decides_by_the_data(source_file: Path, fresh: Path, tmp_path: Path) -> None:
    assert answer("prepare", "json", source_file, "--out", tmp_path / "data")["seen"] == "kept"
    assert answer("prepare", "json", fresh.parent / "source.json", "--out", tmp_path / "fresh")["seen"] == "excluded"


@BOTH
def test_evaluate_both_ways(run_folder: Path, prepared: Path, flag: str, seen: str) -> None:
    options: dict[str, Any] = {"users_by": "length", "items_by": "popularity", "per_step": True}
    asked = ("--users-by", "length", "--items-by", "popularity", "--by-step")
    report = answer("evaluate", run_folder, flag, *asked)
    model, dataset = ReaRec.from_pretrained(run_folder), load_dataset(prepared)
    assert report["seen"] == seen
    expected = evaluate(model, dataset, exclude_seen=seen == "excluded", **options)
    assert {name: value for name, value in report.items() if name not in ("run", "method")} == expected
    assert set(METRICS) | {f"{metric}_se" for metric in METRICS} <= set(report)
    other = evaluate(model, dataset, exclude_seen=seen != "excluded", **options)
    assert report["users_by_length"] != other["users_by_length"] and report["markov"] != other["markov"]
    shown = rearec("evaluate", run_folder, flag, *asked)
    # above all four tables
    assert " ".join(shown.stdout.split()).count(f"seen items {seen}") == 4


def test_a_run_is_evaluated_as_it_was_trained(excluding: Path, fresh: Path, run_folder: Path) -> None:
    assert RunFolder(excluding).options()["training"]["exclude_seen"] is True
    assert answer("evaluate", excluding)["seen"] == "excluded"
    assert answer("evaluate", excluding, "--keep-seen")["seen"] == "kept"
    assert answer("evaluate", run_folder)["seen"] == "kept"
    result = RunFolder(excluding).result()
    assert result["seen"] == result["valid"]["seen"] == result["test"]["seen"] == "excluded"
    # the choice of the best epoch too
    with RunFolder(excluding).metrics_file.open() as file:
        best = list(csv.DictReader(file))[result["best_epoch"] - 1]
    model, dataset = ReaRec.from_pretrained(excluding), load_dataset(fresh)
    for metric in METRICS:
        # the epoch is chosen without the graph prior
        value = evaluate(model, dataset, "valid", exclude_seen=True, prior=False)[metric]
        assert float(best[f"valid_{metric}"]) == pytest.approx(value, rel=1e-12)
        assert value >= evaluate(model, dataset, "valid", exclude_seen=False, prior=False)[metric]


def test_a_run_remembers_what_was_asked_for_against_the_data(fresh: Path, tmp_path: Path) -> None:
    report = answer("train", fresh, "--out", tmp_path / "run", *TINY, "--keep-seen")
    assert report["seen"] == report["test"]["seen"] == "kept"
    evaluated = answer("evaluate", tmp_path / "run")
    assert evaluated["seen"] == "kept" and evaluated["ndcg@20"] == report["test"]["ndcg@20"]


def old(run: Path, out: Path) -> Path:
    """The same run as it was left before there was a choice."""
    shutil.copytree(run, out)
    for name in ("options.json", "result.json"):
        record = json.loads((out / name).read_text())
        record.get("training", {}).pop("exclude_seen", None)
        for part in (record, record.get("valid", {}), record.get("test", {})):
            part.pop("seen", None)
        (out / name).write_text(json.dumps(record))
    return out


def test_an_old_run_is_evaluated_as_the_data_says(excluding: Path, run_folder: Path, tmp_path: Path) -> None:
    for number, (run, seen) in enumerate([(excluding, "excluded"), (run_folder, "kept")]):
        place = old(run, tmp_path / str(number))
        result = rearec("evaluate", place, "--json")
        assert json.loads(result.stdout)["seen"] == seen
        note = next(line for line in result.stderr.splitlines() if line.startswith("seen items"))
        assert "validation rows ask" in note and note.endswith("was trained before there was a choice")


def test_a_run_goes_on_as_it_began(excluding: Path, fresh: Path, tmp_path: Path) -> None:
    again = rearec("train", fresh, "--out", excluding, "--resume", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["seen"] == "excluded"
    other = rearec("train", fresh, "--out", excluding, "--resume", "--keep-seen")
    assert other.exit_code == 2 and "the run to resume was started with --exclude-seen, not --keep-seen" in other.stderr

    config = ReaRecConfig.from_dict(RunFolder(excluding).options()["model"])
    saved = RunFolder(excluding).options()["training"] | {"exclude_seen": None}
    unasked = TrainingOptions(**saved)
    assert train(fresh, excluding, config, unasked, resume=True)["seen"] == "excluded"
    # seen items were kept where it validated: what it goes on with must be the same
    begun = old(excluding, tmp_path / "old")
    assert train(fresh, begun, config, unasked, resume=True)["seen"] == "kept"
    with pytest.raises(UserError, match="exclude_seen = False, not True"):
        train(fresh, begun, config, TrainingOptions(**saved | {"exclude_seen": True}), resume=True)


def test_a_damaged_choice_is_named(excluding: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(excluding, tmp_path / "run"))
    record = json.loads((place / "options.json").read_text())
    record["training"]["exclude_seen"] = "sometimes"
    (place / "options.json").write_text(json.dumps(record))
    result = rearec("evaluate", place)
    assert result.exit_code == 2 and "exclude_seen is 'sometimes', expected true or false" in result.stderr


@pytest.mark.parametrize("value", [1, "kept"])
def test_other_values_than_truth_values_are_no_option(value: Any) -> None:
    with pytest.raises(ValueError, match="exclude_seen: got"):
        TrainingOptions(exclude_seen=value)


def test_metrics_by_name(run_folder: Path, prepared: Path) -> None:
    names = ["ndcg@5", "hit@10", "coverage@20", "arp@3"]
    report = answer("evaluate", run_folder, "--metrics", "ndcg@5, HIT@10,coverage@20,arp@3", "--exclude-seen")
    expected = evaluate(ReaRec.from_pretrained(run_folder), load_dataset(prepared), exclude_seen=True, metrics=names)
    assert {name: value for name, value in report.items() if name not in ("run", "method")} == expected
    assert report["coverage@20_se"] is None and "ndcg@10" not in report and report["markov"]["arp@3"] > 0
    shown = rearec("evaluate", run_folder, "--metrics", "ndcg@5,coverage@20,arp@3")
    assert all(column in shown.stdout for column in ("NDCG@5", "Coverage@20", "ARP@3"))
    assert "NDCG@10" not in shown.stdout and f"{report['rows']:,}" in shown.stdout


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("ndcg@5,gini@3", "metrics: unknown metric 'gini@3'; known are"),
        ("ndcg@0", "'ndcg@0' has k = 0, expected 1 to 40"),
        ("ndcg@41", "'ndcg@41' has k = 41, expected 1 to 40, the number of items"),
        ("", "unknown metric ''"),
    ],
)
def test_other_metrics_are_one_line(run_folder: Path, metrics: str, message: str) -> None:
    result = rearec("evaluate", run_folder, "--metrics", metrics)
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: ") and message in result.stderr.splitlines()[-1]


@BOTH
@pytest.mark.parametrize("analysis", ["steps", "ceiling", "subgroups", "ranks", "case"])
def test_analyses_rank_both_ways_and_say_which(
    run_folder: Path, tmp_path: Path, analysis: str, flag: str, seen: str
) -> None:
    report = answer("analyze", run_folder, analysis, "--out", tmp_path, flag)
    other_flag = "--keep-seen" if seen == "excluded" else "--exclude-seen"
    other = answer("analyze", run_folder, analysis, "--out", tmp_path / "other", other_flag)
    assert report["seen"] == seen and report["result"] != other["result"]
    assert f"seen items {seen}" in (tmp_path / f"{analysis}.md").read_text()
    with (tmp_path / f"{analysis}.csv").open() as file:
        assert {row["seen"] for row in csv.DictReader(file)} == {seen}


def test_analyses_that_rank_nothing_take_no_choice(run_folder: Path, tmp_path: Path) -> None:
    for flag in ("--exclude-seen", "--keep-seen"):
        result = rearec("analyze", run_folder, "similarity", "--out", tmp_path / "out", flag)
        assert result.exit_code == 2
        assert f"{flag}: similarity ranks nothing; it belongs to steps, ceiling" in result.stderr
    assert "seen" not in answer("analyze", run_folder, "similarity", "--out", tmp_path)


def test_a_control_that_was_chosen_the_other_way_round_is_named(
    run_folder: Path, prepared: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    config = ReaRecConfig(load_dataset(prepared).num_items, method="base", dim=8, ffn=8, layers=1, max_len=8)
    train(prepared, other, config, TrainingOptions(epochs=1, exclude_seen=True))
    result = rearec("analyze", run_folder, "subgroups", "--out", tmp_path / "out", "--against", other)
    assert result.exit_code == 0, result.stderr
    assert f"{other}: its best epoch was chosen the other way round" in result.stderr


def test_the_runs_of_a_plan_have_its_choice_and_old_ones_keep_their_names(prepared: Path) -> None:
    dataset = load_dataset(prepared)
    kept, excluded = Plan(dataset), Plan(dataset, settings={"exclude_seen": True})
    assert (kept.seen.name, excluded.seen.name) == ("kept", "excluded")
    run = kept.run("base")
    assert run.options.exclude_seen is False and excluded.run("base").options.exclude_seen is True
    config = ReaRecConfig(40, method="base", dim=64, ffn=128, temperature=0.1)
    assert Run(config, TrainingOptions(epochs=3, exclude_seen=False)).name == "sasrec-base-tau0.1-seed0-126229b6"
    assert excluded.run("base").name != run.name
    with pytest.raises(UserError, match="setting exclude_seen: got 'no', expected True, False or None"):
        Plan(dataset, settings={"exclude_seen": "no"})
    unsaid = Plan(repeating_dataset(), settings={"exclude_seen": None})
    assert unsaid.run("prl").options.exclude_seen is seen_items(repeating_dataset()).exclude is False


@BOTH
def test_the_demonstration_both_ways(tmp_path: Path, flag: str, seen: str) -> None:
    report = answer("demo", "--out", tmp_path / "demo", "--users", "20", "--epochs", "1", flag)
    assert report["seen"] == report["erl"]["seen"] == seen
    dataset = load_dataset(tmp_path / "demo" / "data")
    assert report["markov"] == floor_metrics(dataset, "test", exclude_seen=seen == "excluded")["markov"]
    assert RunFolder(tmp_path / "demo" / "prl").excludes_seen() is (seen == "excluded")


def test_metrics_by_cutoff(run_folder: Path) -> None:
    report = answer("evaluate", run_folder, "--metrics", "HR,mrr,ndcg@3", "-k", "1,5")
    assert {"hit@1", "hit@5", "mrr", "ndcg@3"} <= report.keys() and "ndcg@10" not in report
    assert report["hit@1"] <= report["ndcg@3"] <= 1 and report["hit@1"] <= report["hit@5"]
    assert {"hit@5", "hit@5_se"} <= report["markov"].keys()
    refused = rearec("evaluate", run_folder, "--metrics", "mrr", "-k", "5")
    assert refused.exit_code == 2 and "every metric has its k already" in refused.stderr

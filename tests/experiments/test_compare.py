"""Runs beside one another on the same rows."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearec.data import load_dataset
from rearec.data.dataset import SequenceDataset
from rearec.data.storage import save_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate, rank_rows
from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.floors import FLOORS
from rearec.evaluation.measured import RowGroups
from rearec.evaluation.metrics import METRICS, parse_metrics, row_metrics
from rearec.experiments import contenders
from rearec.experiments.compare import compare
from rearec.experiments.comparison_result import Comparison, short_lines
from rearec.experiments.contenders import Contender, Lines
from rearec.files import read_json, write_json
from rearec.inference import Recommender
from rearec.reasoning import ReaRec
from rearec.training import TrainingOptions, fitting_config, train

pytestmark = pytest.mark.usefixtures("few_resamples", "quick_figures")


@pytest.fixture(scope="module")
def runs(prepared: Path, run_folder: Path) -> list[Path]:
    """A base run, and one of prl that is trained for longer."""
    out = run_folder.parent / "base"
    config = fitting_config(load_dataset(prepared), method="base", dim=16, ffn=16, layers=1, max_len=8)
    train(prepared, out, config, TrainingOptions(epochs=1, batch_rows=128))
    return [out, run_folder]


@pytest.fixture(scope="module")
def comparison(runs: list[Path]) -> Comparison:
    return compare(runs)


def line_of(comparison: Comparison, run: str, metric: str) -> dict[str, Any]:
    (line,) = [line for line in comparison.table if (line["run"], line["metric"]) == (run, metric)]
    return line


def test_numbers_are_those_of_the_evaluation_and_differences_are_paired(
    comparison: Comparison, runs: list[Path], prepared: Path
) -> None:
    dataset = load_dataset(prepared)
    models = {path.name: ReaRec.from_pretrained(path) for path in runs}
    ranks = {name: rank_rows(model, dataset, "test").final for name, model in models.items()}
    assert comparison.names == ("base", "run") and comparison.baseline == "base"
    assert (comparison.rows, comparison.users, comparison.metrics) == (150, 150, list(METRICS))
    alone = evaluate(models["run"], dataset, "test")
    for metric in METRICS:
        own, base = (row_metrics(ranks[name], [metric])[metric] for name in ("run", "base"))
        line = line_of(comparison, "run", metric)
        assert (line["value"], line["value_se"]) == (alone[metric], alone[f"{metric}_se"])
        interval = paired_interval(own, base, resamples=contenders.RESAMPLES)
        assert (line["difference"], line["low"], line["high"]) == (interval.difference, interval.low, interval.high)
        shares = [line[f"rows_{word}"] for word in ("higher", "same", "lower")]
        assert shares == [(own > base).mean(), (own == base).mean(), (own < base).mean()]
        assert sum(shares) == pytest.approx(1)
        assert line["verdict"] == ("higher" if interval.low > 0 else "no difference beyond chance")
        for floor in FLOORS:
            assert line_of(comparison, floor, metric)["value"] == alone[floor][metric]
        own_line = line_of(comparison, "base", metric)
        assert own_line["difference"] is None and own_line["verdict"] is None
    settings = {line["setting"]: line for line in comparison.settings}
    assert settings["method"] == {"setting": "method", "base": "base", "run": "prl"}
    # what base does not read is no difference of its own
    assert settings["alpha"]["base"] is None and "max_len" not in settings


def test_hand_made_ranks_give_hand_made_numbers() -> None:
    class OfRanks(Contender):
        def __init__(self, ranks: list[float]) -> None:
            self.lists, self.ranks = None, np.array(ranks)

    measured = {"a": OfRanks([0, 30, 5, 9]), "b": OfRanks([0, 2, 5, 40]), "c": OfRanks([0, 2, 5, 9])}
    users = np.arange(4, dtype=np.int32)
    (metric,) = parse_metrics(["recall@10"])
    masks = np.array([[True] * 4, [True, True, False, False]])
    lines = Lines(measured, "a", masks, users)
    a, b, c = lines.of(metric, 0)
    assert (a["value"], b["value"], c["value"]) == (0.75, 0.75, 1.0)
    assert (b["difference"], b["rows_higher"], b["rows_same"], b["rows_lower"]) == (0.0, 0.25, 0.5, 0.25)
    assert (c["difference"], c["rows_higher"], c["rows_same"], c["rows_lower"]) == (0.25, 0.25, 0.75, 0.0)
    # four rows: even a row in favour of c and none against it may be chance
    assert c["low"] == 0.0 and c["verdict"] == b["verdict"] == "no difference beyond chance"
    _, b, c = lines.of(metric, 1)
    assert b["rows"] == 2 and b["difference"] == c["difference"] == 0.5


def test_a_run_beside_itself_differs_by_nothing(runs: list[Path]) -> None:
    result = compare([runs[1], runs[1]])
    assert result.names == (str(runs[1]), f"{runs[1]} (2)")
    for line in [*result.table, *result.groups]:
        if line["run"] == result.names[1]:
            assert (line["difference"], line["low"], line["high"], line["rows_same"]) == (0, 0, 0, 1)
            assert line["verdict"] == "no difference beyond chance"
    assert result.settings == [] and "no difference beyond chance" in repr(result)


def test_groups_are_those_of_the_evaluation(comparison: Comparison, runs: list[Path], prepared: Path) -> None:
    dataset = load_dataset(prepared)
    alone = evaluate(ReaRec.from_pretrained(runs[1]), dataset, "test", users_by="length", items_by="popularity")
    for key in ("users_by_length", "items_by_popularity"):
        lines = [line for line in comparison.groups if line["grouping"] == key and line["run"] == "run"]
        assert [(line["group"], line["rows"], line["value"]) for line in lines] == [
            (group["group"], group["rows"], group["ndcg@20"]) for group in alone[key]
        ]
        assert all(line["low"] <= line["difference"] <= line["high"] for line in lines)
    assert compare(runs, users_by=None, items_by=None, metrics=["ndcg@5"]).groups == []
    with pytest.raises(UserError, match="users_by: got 'age'"):
        compare(runs, users_by="age")


def test_metrics_of_lists_have_an_interval_where_rows_have_values(runs: list[Path], prepared: Path) -> None:
    metrics = ["coverage@5", "novelty@5", "arp@5"]
    result = compare(runs, metrics=metrics, against="popularity", exclude_seen=True)
    alone = evaluate(
        ReaRec.from_pretrained(runs[1]), load_dataset(prepared), "test", exclude_seen=True, metrics=metrics
    )
    for metric in metrics:
        line = line_of(result, "run", metric)
        assert line["value"] == alone[metric]
        assert line["difference"] == pytest.approx(alone[metric] - alone["popularity"][metric])
        assert (line["low"] is None) == (metric == "coverage@5")
    assert result.baseline == "popularity" and line_of(result, "popularity", "arp@5")["difference"] is None


def test_users_with_several_rows_are_drawn_as_a_whole(runs: list[Path], prepared: Path, tmp_path: Path) -> None:
    dataset = load_dataset(prepared)
    result = compare(runs, split="train", metrics=["recall@10"], users_by=None, items_by=None)
    rows = np.asarray(dataset.rows("train"))
    users = np.asarray(dataset.sequence_user)[rows[:, 0]]
    assert (result.rows, result.users) == (len(rows), len(np.unique(users))) and result.rows > 2 * result.users
    own, base = (
        row_metrics(rank_rows(ReaRec.from_pretrained(path), dataset, "train").final, ["recall@10"])["recall@10"]
        for path in reversed(runs)
    )
    line = line_of(result, "run", "recall@10")
    by_users, by_rows = (
        paired_interval(own, base, users=each, resamples=contenders.RESAMPLES) for each in (users, None)
    )
    assert (line["low"], line["high"]) == (by_users.low, by_users.high) != (by_rows.low, by_rows.high)


def test_models_in_memory_are_compared_on_their_dataset(
    comparison: Comparison, runs: list[Path], prepared: Path
) -> None:
    class Fitted(Recommender):
        dataset: SequenceDataset
        run: Path | None = None

    fitted = Fitted(runs[1])
    fitted.dataset = load_dataset(prepared)
    result = compare({"mine": fitted, "other": runs[0]}, metrics=["ndcg@20"], against="other")
    assert result.names == ("mine", "other") and result.baseline == "other"
    line = line_of(result, "mine", "ndcg@20")
    assert line == {**line_of(comparison, "run", "ndcg@20"), "run": "mine"}
    fitted.run = runs[1]
    assert compare([fitted, runs[0]], metrics=["ndcg@20"]).names == ("run", "base")
    with pytest.raises(UserError, match="the first model does not know its dataset"):
        compare([Recommender(runs[1])])


def altered(run: Path, folder: Path, part: str, name: str, value: Any) -> Path:
    """A copy of a run whose options say something else."""
    import shutil

    copy = folder / f"{name}-{run.name}"
    shutil.copytree(run, copy)
    options = read_json(copy / "options.json")
    options[part][name] = value
    write_json(copy / "options.json", options)
    return copy


def test_what_cannot_be_compared_is_refused(
    comparison: Comparison, runs: list[Path], prepared: Path, tmp_path: Path
) -> None:
    stranger = altered(runs[1], tmp_path, "dataset", "fingerprint", "0" * 32)
    with pytest.raises(UserError, match=r"fingerprint-run: was trained on other data.*same rows only"):
        compare([runs[0], stranger])
    save_dataset(dataclasses.replace(load_dataset(prepared), item_ids=[f"x{n}" for n in range(40)]), tmp_path / "x")
    with pytest.raises(UserError, match="base: was trained on other data"):
        compare(runs, data=tmp_path / "x")

    otherwise = altered(runs[1], tmp_path, "training", "exclude_seen", True)
    message = r"\(kept by base, excluded by exclude_seen-run\): decide with --exclude-seen or --keep-seen"
    with pytest.raises(UserError, match=message):
        compare([runs[0], otherwise])
    decided = compare([runs[0], otherwise], exclude_seen=False, metrics=["ndcg@20"])
    assert decided.seen.name == "kept"
    assert line_of(decided, "exclude_seen-run", "ndcg@20")["low"] == line_of(comparison, "run", "ndcg@20")["low"]

    lost = altered(runs[1], tmp_path, "dataset", "path", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="is gone; say where it is with --data"):
        compare([lost])
    final = altered(runs[1], tmp_path, "training", "epochs", 1)
    write_json(final / "options.json", {**read_json(final / "options.json"), "refit_of": {"run": "run", "rows": 1}})
    with pytest.raises(UserError, match="a refit, trained on every interaction"):
        compare([runs[0], final])
    for asked, message in (
        (
            {"against": "nobody"},
            "against: 'nobody' is none of what is compared; known are popularity, markov, itemknn, rules, base",
        ),
        ({"metrics": ["ndcg"]}, "lacks its k"),
        ({"split": "tests"}, "split: got 'tests'"),
    ):
        with pytest.raises(UserError, match=message):
            compare(runs, **asked)
    with pytest.raises(UserError, match="runs: got none"):
        compare([])
    with pytest.raises(UserError, match="expected several runs in a list"):
        compare(str(runs[0]))
    with pytest.raises(UserError, match="no such folder"):
        compare([tmp_path / "nothing"])


def test_the_page_says_all_of_it(comparison: Comparison, runs: list[Path], prepared: Path, tmp_path: Path) -> None:
    files = comparison.save(tmp_path / "out")
    assert all(file.is_file() for file in files)
    page = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    assert load_dataset(prepared).fingerprint in page and "rearec compare base run --split test --out out" in page
    assert "Settings in which the runs differ:" in page and "150 test rows of 150 users" in page
    assert "seen items kept" in page and "By items in the history:" in page
    with (tmp_path / "out" / "comparison.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["value"]) for line in lines] == [line["value"] for line in comparison.table]
    assert {(line["seen"], line["split"], line["baseline"]) for line in lines} == {("kept", "test", "base")}
    with pytest.raises(UserError, match="exists already; --force replaces it"):
        comparison.save(tmp_path / "out")
    assert comparison.save(tmp_path / "out", force=True) == files
    assert json.dumps(comparison.to_dict(), allow_nan=False)

    frame = comparison.to_frame()
    assert frame.shape == (len(METRICS) * (2 + len(FLOORS)), len(comparison.table[0]))
    assert list(comparison.to_frame("pandas")["run"]) == [line["run"] for line in comparison.table]
    with pytest.raises(UserError, match="expected polars or pandas"):
        comparison.to_frame("arrow")  # type: ignore[arg-type]
    assert len(repr(comparison)) < 500 and ">base</td>" in comparison._repr_html_()
    for metric in METRICS:
        lines = short_lines(comparison.table, metric)
        assert len(lines) == 3 + len(FLOORS) and max(map(len, lines)) <= 60


def test_groups_without_rows_of_their_own_are_not_made(prepared: Path) -> None:
    groups = RowGroups(load_dataset(prepared), "test", "length", None)
    assert {key for key, _ in groups.names} == {"", "users_by_length"}


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (3, "runs: got a int, expected several runs in a list"),
        ([3], "runs: got a int, expected RUN folders, or what fit or load returned"),
    ],
)
def test_what_is_no_run_is_told(runs: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        compare(runs)

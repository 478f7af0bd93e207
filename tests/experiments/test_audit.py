"""A benchmark under audit: what its rows ask for, counted by hand, and who is measured on them."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearec.data import load_dataset, prepare
from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.statistics import later_training
from rearec.data.storage import save_dataset
from rearec.errors import UserError
from rearec.evaluation import evaluate, rank_rows
from rearec.evaluation.bootstrap import paired_interval
from rearec.evaluation.floors import FLOORS, baseline_ranks
from rearec.evaluation.metrics import METRICS, rank_metrics, row_metrics
from rearec.experiments import contenders
from rearec.experiments.audit import audit
from rearec.experiments.audit_result import Audit
from rearec.experiments.audit_rows import NOT_KNOWN
from rearec.models.saved import PRIOR_FILE
from rearec.reasoning import ReaRec
from rearec.training import fit_prior

pytestmark = pytest.mark.usefixtures("few_resamples", "quick_figures")

OLD = Path(__file__).parent.parent / "formats" / "dataset"
# Training: a after b, b after a (ann, amy, ben), d after c (cid). The last line is one row of test with an unseen item.
LINES = """\
ann a b a b
amy a b a b
ben b a c c
cid c d d a
dan d c b z
"""


@pytest.fixture(scope="module")
def found(prepared: Path, run_folder: Path) -> Audit:
    return audit(prepared, [run_folder])


def lines_of(lines: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    return [line for line in lines if wanted.items() <= line.items()]


def of_lines(folder: Path, text: str, **options: Any) -> SequenceDataset:
    (folder / "lines.txt").write_text(text)
    return prepare("lines", [folder / "lines.txt"], folder / "data", **options)


def test_shares_are_those_counted_by_hand(tmp_path: Path) -> None:
    result = audit(of_lines(tmp_path, LINES), exclude_seen=False)
    # training pairs: ab twice, ba, cd, dc; test pairs: ab twice (followed), cc, da and bz (not)
    shares = {name: (each.count, each.of) for name, each in result.shares.items()}
    assert shares == {
        "followed_last": (2, 5),
        "top_followers": (2, 5),
        "in_history": (3, 5),  # ann, amy, ben
        "same_as_last": (1, 5),  # ben
        "unseen_target": (1, 5),  # z
        "empty_history": (0, 5),
        "twin_sequences": (2, 5),  # ann and amy
    }
    assert result.shares["followed_last"].percent == "40.0 %"
    explained = lines_of(result.groups, grouping="last_item_rule", run="markov")
    assert [(line["group"], line["rows"]) for line in explained] == [("followed the last item", 2), ("never did", 3)]
    # b is the only follower of a: the rule ranks it first
    assert explained[0]["value"] == 1.0 and explained[0]["against"] == "markov"
    assert result.names == () and {line["run"] for line in result.table} == set(FLOORS)


EVENTS = """\
user,item,timestamp
ann,a,1
ann,b,2
ann,c,3
ann,d,4
bob,b,4
bob,d,5
bob,c,6
bob,a,7
"""


def test_later_training_is_that_counted_by_hand(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(EVENTS)
    dataset = prepare("table", [tmp_path / "events.csv"], tmp_path / "data")
    # training: a at 1, b at 2, b at 4, d at 5; test: d at 4 (later: d at 5, not b at 4), a at 7 (later: nothing)
    expected = {"test_rows_before_training": 1, "test_rows_before_own_item": 1, "later_training_share": (1 / 4) / 2}
    assert expected.items() <= load_dataset(tmp_path / "data").statistics.items()
    assert audit(dataset).later == [
        "50.0 % of the test rows (1 of 2) are earlier than some of the training interactions",
        "50.0 % (1) are earlier than a training interaction of the very item they ask for",
        "on average 12.5 % of the training interactions are later than the row they help to predict",
    ]
    # an item that training does not have, at times that a float64 does not tell apart
    times = np.array([1, 2, 3, 4, 4, 5, 6, 7]) + 2**60
    assert later_training(dataset, times) == expected
    assert later_training(dataset, times.astype(np.float64))["test_rows_before_training"] == 0


def test_a_row_that_is_cut_off_takes_its_time_along(tmp_path: Path) -> None:
    bob, ann = "bob,b,4\nbob,a,5\nbob,b,6\nbob,q,7\n", "ann,a,1\nann,b,2\nann,a,3\nann,b,4\n"
    (tmp_path / "events.csv").write_text(f"user,item,timestamp\n{bob}{ann}")
    dataset = prepare("table", [tmp_path / "events.csv"], tmp_path / "data", known_items=True)
    # q is in no training row; training is left with b at 4, a at 5, a at 1, b at 2, test with b at 4
    assert (len(dataset.items), len(dataset.rows("test"))) == (7, 1)
    expected = {"test_rows_before_training": 1, "test_rows_before_own_item": 0, "later_training_share": 1 / 4}
    assert expected.items() <= dataset.statistics.items()


def test_without_timestamps_it_says_so(tmp_path: Path, found: Audit) -> None:
    assert found.later == [NOT_KNOWN]
    old = audit(OLD)
    assert old.later == [NOT_KNOWN] and old.rows == 20 and old.to_dict()["later_training"] == [NOT_KNOWN]


def test_numbers_are_those_of_the_evaluation_and_the_baseline_is_chosen_on_validation(
    found: Audit, prepared: Path, run_folder: Path
) -> None:
    dataset, model = load_dataset(prepared), ReaRec.from_pretrained(run_folder)
    exclude = found.seen.exclude
    on_valid = baseline_ranks(dataset, "valid", exclude_seen=exclude)
    values = {name: rank_metrics(ranks, ["ndcg@20"])["ndcg@20"] for name, ranks in on_valid.items()}
    assert found.floors_on_valid == values and values[found.baseline] == max(values.values())
    alone = evaluate(model, dataset, "test", exclude_seen=exclude, users_by="length", items_by="popularity")
    for metric in METRICS:
        (own,) = lines_of(found.table, run="run", metric=metric)
        assert (own["value"], own["value_se"]) == (alone[metric], alone[f"{metric}_se"])
        for floor in FLOORS:
            (line,) = lines_of(found.table, run=floor, metric=metric)
            assert line["value"] == alone[floor][metric]
            assert (line["difference"] is None) == (floor == found.baseline)
    own_gain, base = (
        row_metrics(ranks, ["ndcg@20"])["ndcg@20"]
        for ranks in (
            rank_rows(model, dataset, "test", exclude_seen=exclude).final,
            baseline_ranks(dataset, "test", exclude_seen=exclude)[found.baseline],
        )
    )
    interval = paired_interval(own_gain, base, resamples=contenders.RESAMPLES)
    (line,) = lines_of(found.table, run="run", metric="ndcg@20")
    assert (line["difference"], line["low"], line["high"]) == (interval.difference, interval.low, interval.high)
    for key in ("users_by_length", "items_by_popularity"):
        lines = lines_of(found.groups, grouping=key, run="run")
        assert [(line["group"], line["value"]) for line in lines] == [(g["group"], g["ndcg@20"]) for g in alone[key]]
    # what followed and what did not are all rows
    parts = lines_of(found.groups, grouping="last_item_rule", run="run")
    assert sum(part["rows"] * part["value"] for part in parts) / found.rows == pytest.approx(alone["ndcg@20"])
    assert audit(prepared, split="valid").floors_on_valid == values


def test_the_page_says_all_of_it(found: Audit, prepared: Path, tmp_path: Path) -> None:
    files = found.save(tmp_path / "out")
    assert sorted(file.name for file in files) == [
        *("audit-groups.csv", "audit-groups.png", "audit-rows.csv", "audit.csv", "audit.md", "audit.png"),
    ]
    page = (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")
    assert "rearec audit prepared run --split test --out out" in page and load_dataset(prepared).fingerprint in page
    assert NOT_KNOWN in page and f"run against {found.baseline}: NDCG@20" in page
    with (tmp_path / "out" / "audit-rows.csv").open(encoding="utf-8") as file:
        lines = {line["what"]: line for line in csv.DictReader(file)}
    assert float(lines["followed_last"]["share"]) == found.shares["followed_last"].share
    with pytest.raises(UserError, match="exists already; --force replaces it"):
        found.save(tmp_path / "out")
    assert found.save(tmp_path / "out", force=True) == files
    assert json.dumps(found.to_dict(), allow_nan=False) and repr(found).startswith("Audit: 150 test rows")


def test_a_run_with_a_graph_prior_is_measured_with_it_beside_one_without(
    prepared: Path, run_folder: Path, tmp_path: Path
) -> None:
    dataset, folders = load_dataset(prepared), [tmp_path / "with", tmp_path / "plain"]
    for folder in folders:
        shutil.copytree(run_folder, folder)
        (folder / PRIOR_FILE).unlink(missing_ok=True)
    model = ReaRec.from_pretrained(folders[1])
    model.prior = fit_prior(model, dataset, exclude_seen=False)
    assert model.prior is not None
    model.prior.save(folders[0] / PRIOR_FILE)
    result = audit(dataset, folders, exclude_seen=False)
    values = [line["value"] for line in lines_of(result.table, metric="ndcg@20")[:2]]
    measured = evaluate(model, dataset, exclude_seen=False, floors=False)
    assert values == [measured["ndcg@20"], measured["without_prior"]["ndcg@20"]] and values[0] != values[1]
    assert result.priors == ("with",) and result.to_dict()["priors"] == ["with"]
    result.save(tmp_path / "out")
    assert "- with the graph prior of the run: with" in (tmp_path / "out" / "audit.md").read_text(encoding="utf-8")


def without(dataset: SequenceDataset, split: Any) -> SequenceDataset:
    none = np.empty((0, 2), dtype=np.int32)
    return dataclasses.replace(dataset, split_rows={**dataset.split_rows, split: none})


def test_splits_without_rows(prepared: Path) -> None:
    dataset = load_dataset(prepared)
    with pytest.raises(UserError, match="the dataset has no test rows"):
        audit(without(dataset, "test"))
    with pytest.raises(UserError, match="split: got 'train', expected valid or test"):
        audit(dataset, split="train")
    result = audit(without(dataset, "valid"))
    assert result.baseline == "rules" and result.floors_on_valid == {}
    assert "no validation rows to choose by" in result.title


def test_runs_of_other_data_are_refused(run_folder: Path, prepared: Path, tmp_path: Path) -> None:
    save_dataset(dataclasses.replace(load_dataset(prepared), item_ids=[f"x{n}" for n in range(40)]), tmp_path / "x")
    with pytest.raises(UserError, match=r"^run: was trained on other data.*same rows only"):
        audit(tmp_path / "x", [run_folder])
    with pytest.raises(UserError, match="no such folder"):
        audit(prepared, [tmp_path / "nothing"])


@pytest.mark.parametrize("seen", [True, False])
def test_one_item(seen: bool, tmp_path: Path) -> None:
    result = audit(of_lines(tmp_path, "ann a a a a\n"), exclude_seen=seen)
    assert {name: each.count for name, each in result.shares.items()} == {
        **dict.fromkeys(("followed_last", "top_followers", "in_history", "same_as_last"), 1),
        **dict.fromkeys(("unseen_target", "empty_history", "twin_sequences"), 0),
    }
    assert all(line["value"] == 1.0 for line in result.table) and result.save(tmp_path / "out")

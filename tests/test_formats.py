"""What release 0.1.0 has written still opens, and says the same: a prepared dataset, a finished run, a killed one.

``tests/formats`` was made by that release and must not be made again: ``dataset`` (with titles and features), ``run``
(prl, three epochs), ``killed`` (the same, killed in the third epoch) and ``expected.json``, what ``evaluate`` and
``recommend`` said of them then. The paths in ``options.json`` were shortened, ``run`` has lost its checkpoints.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rearec import ReaRec, Recommender, load_dataset
from rearec.data.words import SplitName
from rearec.evaluation import evaluate
from rearec.run_folder import RunFolder

FORMATS = Path(__file__).parent / "formats"
DATASET, RUN, KILLED = (FORMATS / name for name in ("dataset", "run", "killed"))
EXPECTED: dict[str, Any] = json.loads((FORMATS / "expected.json").read_text())


def close_to(expected: Any) -> Any:
    """The same with its numbers to 1e-6, wherever they stand."""
    if isinstance(expected, dict):
        return {key: close_to(value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [close_to(value) for value in expected]
    return pytest.approx(expected, abs=1e-6) if isinstance(expected, float) else expected


def within(found: Any, expected: Any) -> Any:
    """What a result has of the keys of an earlier one: later versions say more."""
    if isinstance(expected, dict):
        return {key: within(found[key], value) for key, value in expected.items()}
    if isinstance(expected, list):
        return [within(*pair) for pair in zip(found, expected, strict=True)]
    return found


def test_the_dataset_has_its_items_titles_features_and_rows() -> None:
    dataset = load_dataset(DATASET)
    assert (dataset.num_users, dataset.num_items) == (20, 24)
    assert dataset.item_ids[:2] == ["item-10", "item-09"] and dataset.user_ids[-1] == "user-19"
    assert dataset.item_titles is not None and dataset.item_titles[:2] == [None, "Tool no. 9 – für alle"]
    assert dataset.features is not None and dataset.features.shape == (24, 6)
    assert [len(dataset.rows(split)) for split in ("train", "valid", "test")] == [67, 20, 20]
    # Written anew, it would be the same dataset.
    stored = dataset.fingerprint
    del vars(dataset)["fingerprint"]
    assert dataset.fingerprint == stored


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_run_is_evaluated_to_the_same_numbers(split: SplitName) -> None:
    result = evaluate(ReaRec.from_pretrained(RUN).eval(), load_dataset(DATASET), split, per_step=True)
    assert within(result, EXPECTED["evaluate"][split]) == close_to(EXPECTED["evaluate"][split])


def test_the_run_recommends_the_same_items() -> None:
    expected = EXPECTED["recommend"]
    answers = Recommender(RUN).recommend([answer["history"] for answer in expected], k=5)
    found = [{"source": each.source, "items": each.items, "scores": each.scores} for each in answers]
    assert found == [close_to({key: each[key] for key in ("source", "items", "scores")}) for each in expected]


def test_resuming_the_finished_run_returns_what_it_has_stored(tmp_path: Path, call_rearec: Any) -> None:
    copy = shutil.copytree(RUN, tmp_path / "run")
    resumed = call_rearec("train", DATASET, "--out", copy, "--resume", "--device", "cpu", "--json")
    assert resumed.returncode == 0, resumed.stderr
    assert "has finished already" in resumed.stderr
    stored = json.loads((RUN / "result.json").read_text())
    assert stored.items() <= json.loads(resumed.stdout).items()
    assert json.loads((copy / "result.json").read_text()) == stored


def test_the_killed_run_goes_on_to_the_numbers_of_the_finished_one(tmp_path: Path, call_rearec: Any) -> None:
    copy = shutil.copytree(KILLED, tmp_path / "killed")
    resumed = call_rearec("train", DATASET, "--out", copy, "--resume", "--device", "cpu", "--threads", "1")
    assert resumed.returncode == 0, resumed.stderr
    assert "epoch   3" in resumed.stderr and "epoch   2" not in resumed.stderr
    expected = RunFolder(RUN).result()
    assert within(RunFolder(copy).result(), expected) == close_to(expected)
    losses = []
    for run in (copy, RUN):
        with (run / "metrics.csv").open(encoding="utf-8", newline="") as file:
            losses.append([float(row["train_loss"]) for row in csv.DictReader(file)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)

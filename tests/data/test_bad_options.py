"""Options that ask for what is not there or contradict each other are one line, and leave no output behind."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from refusals import GOOD, refused

from rearec.data import prepare
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]


def test_a_source_without_any_interaction(write: Write) -> None:
    path = write("j.json", '{"u": [], "v": []}')
    assert refused("json", [path]) == f"{path}: there are no interactions"


def test_files_that_do_not_go_together(write: Write) -> None:
    with_time, without = write("a.csv", GOOD), write("b.csv", "user_id,item_id,rating\nu,e,3\n")
    assert refused("table", [with_time, without]) == f"{without}: no timestamp column, but {with_time} has one"
    dates = write("c.csv", "user_id,item_id,rating,timestamp\nu,a,1,2020-01-01\n")
    assert refused("table", [with_time, dates]).startswith(f"{dates}: the timestamps are of another kind")
    unrated = write("d.csv", "user_id,item_id,timestamp\nu,e,3\n")
    assert refused("table", [unrated, with_time]) == f"{unrated}: no rating column, but {with_time} has one"


def test_splits_that_leave_nothing(write: Write) -> None:
    short = write("s.txt", "u a\nu b\nv a\n")
    assert refused("sasrec", [short]) == (
        f"{short}: the split 'leave-one-out' leaves no valid rows (rows: train 1, valid 0, test 0); "
        "users with 3 or more interactions have some, here no user has more than 2"
    )
    path = write("t.csv", GOOD)
    for valid, test, empty in (("1", "3", "train"), ("5", "6", "valid"), ("3", "9", "test")):
        message = refused("table", [path], split="timestamp", valid_from=valid, test_from=test)
        assert message.startswith(f"{path}: the split 'timestamp' (timestamps from 1 to 4) leaves no {empty} rows")
    dates = write("d.csv", "user_id,item_id,timestamp\n" + "".join(f"u,{n},2020-01-0{n}\n" for n in range(1, 5)))
    message = refused("table", [dates], split="timestamp", valid_from="2021-01-01", test_from="2021-01-02")
    assert "(timestamps from 2020-01-01T00:00:00.000000 to 2020-01-04T00:00:00.000000) leaves no valid rows" in message


def test_filters_that_leave_nothing(write: Write) -> None:
    path = write("t.csv", GOOD)
    assert refused("table", [path], core=9) == (
        f"{path}: the filters leave no interactions; removed: --core 9: 1 of 1 users, 4 of 4 items, "
        "4 of 4 interactions; the largest core that leaves some is 1"
    )
    assert refused("table", [path], min_rating=9) == (
        f"{path}: the filters leave no interactions; removed: --min-rating 9: 1 of 1 users, 4 of 4 items, "
        "4 of 4 interactions"
    )
    message = refused("table", [path], min_eval_history=3)
    assert message == (
        f"{path}: the filters on rows leave no valid rows (rows: train 1, valid 0, test 1); "
        "removed: --min-eval-history 3: 1 of 3 rows"
    )


def test_ratings_that_are_needed_and_missing(write: Write) -> None:
    unrated = write("t.csv", "user_id,item_id\nu,a\nu,b\nu,c\nu,d\n")
    expected = f"{unrated}: a minimum rating is asked for, but there is no rating column"
    assert refused("table", [unrated], min_rating=3) == expected
    assert refused("table", [unrated], min_target_rating=3) == expected
    gap = write("g.csv", GOOD.replace("b,4", "b,"))
    message = f"{gap}: row 3: a minimum rating is asked for, but the row has no rating"
    assert refused("table", [gap], min_rating=3) == message
    # Unless it is needed, a missing rating is no fault.
    assert prepare("table", [gap], gap.parent / "good").num_interactions == 4


def test_repeated_pairs_are_refused_when_asked(write: Write) -> None:
    path = write("t.csv", GOOD + "u,b,5,9\nu,a,5,0\n")
    # The earlier in time is the first: row 2 repeats row 7.
    expected = f"{path}: row 2: user 'u' and item 'a' occur together more than once"
    assert refused("table", [path], duplicates="error") == expected


def test_items_without_a_title(write: Write) -> None:
    path = write("t.csv", GOOD)
    titles = write("titles.csv", "item_id,title\na,A\nb,\nc,C\n")
    message = refused("table", [path], titles=titles)
    assert message.startswith(f"{titles}: no title for item 'b' ({path}: row 3; 2 of 4 items have none)")
    assert refused("table", [path], titles=titles, title_column="name").startswith(f"{titles}: no column 'name'")
    missing = path.parent / "none.csv"
    assert refused("table", [path], titles=missing) == f"{missing}: no such file"


def test_thresholds_that_fit_no_timestamp(write: Write) -> None:
    path = write("t.csv", GOOD)
    dates = write("d.csv", "user_id,item_id,timestamp\n" + "".join(f"u,{n},2020-01-0{n}\n" for n in range(1, 5)))
    untimed = write("s.txt", "u a\nu b\nu c\n")

    def fault(source: Path, valid: Any, test: Any, format: str = "table") -> str:
        return refused(format, [source], split="timestamp", valid_from=valid, test_from=test)

    assert fault(path, "2020-01-01", "3") == (
        "--valid-from is '2020-01-01'; the timestamps are numbers, so it must be a number in their unit"
    )
    assert fault(dates, "2020-01-02", "1577923200").startswith("--test-from is '1577923200'; the timestamps are dates")
    assert fault(dates, "2020-01-02", "never").startswith("--test-from is 'never'; the timestamps are dates")
    assert fault(path, 3, 2) == "--valid-from 3 must be before --test-from 2"
    assert fault(untimed, "1", "2", "sasrec") == (
        f"{untimed}: a split by timestamp is asked for, but there are no timestamps"
    )


OPTION_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "format": ({"format": "movielens"}, "unknown format 'movielens'; known are amazon2023, json"),
    "split": ({"split": "random"}, "unknown split 'random'; known are leave-one-out, timestamp, time-span, given"),
    "given": (
        {"split": "given"},
        "the split 'given' needs 3 files (train, valid and test) or names that",
    ),
    "one threshold": (
        {"split": "timestamp", "valid_from": 3},
        "the split 'timestamp' needs --valid-from and --test-from",
    ),
    "needless threshold": (
        {"test_from": 3},
        "--valid-from and --test-from are for the splits 'timestamp' and 'time-span', not 'leave-one-out'",
    ),
    "no share": (
        {"split": "time-span", "valid_from": 0.8, "test_from": 1},
        "--test-from is '1'; of the split 'time-span' it is a share between 0 and 1, such as 0.8",
    ),
    "shares in the wrong order": (
        {"split": "time-span", "valid_from": "0.9", "test_from": "0.8"},
        "--valid-from 0.9 must be less than --test-from 0.8",
    ),
    "preset": ({"preset": "books"}, "unknown preset 'books'; known are baby, cds"),
    "preset of another format": ({"preset": "cds"}, "the preset 'cds' is for the format 'amazon2023', not 'table'"),
    "nothing to expect": ({"expect": True}, "--expect compares with the published counts of a preset's dataset"),
    "core": ({"core": 0}, "--core must be at least 1, got 0"),
    "user core": ({"user_core": -1}, "--user-core must be at least 1, got -1"),
    "history": ({"min_eval_history": -1}, "--min-eval-history must be at least 0, got -1"),
    "rating": ({"min_rating": float("nan")}, "--min-rating must be a finite number, got nan"),
    "target rating": ({"min_target_rating": float("inf")}, "--min-target-rating must be a finite number, got inf"),
    "column": (
        {"format": "sasrec", "user_column": "who"},
        "--user-column is for the formats 'table', 'recbole'",
    ),
    "separator": ({"format": "sasrec", "separator": ";"}, "--separator is for the formats 'table', 'recbole'"),
    "condition": ({"where": "event:view"}, "--where 'event:view': expected column=value"),
    "carved split": ({"split": "timestamp", "carve_valid": True}, "--carve-valid is for files split into train and"),
    "quoting": ({"quoting": "all"}, "unknown quoting 'all'; known are auto, csv, none"),
}


@pytest.mark.parametrize(("options", "expected"), OPTION_FAULTS.values(), ids=OPTION_FAULTS.keys())
def test_options_that_make_no_sense(options: dict[str, Any], expected: str, write: Write) -> None:
    assert refused(options.pop("format", "table"), [write("t.csv", GOOD)], **options).startswith(expected)


def test_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused("table", []) == "no source file given"


def test_given_files_in_the_wrong_order(write: Write) -> None:
    files = [write("a.csv", GOOD), write("b.train.csv", GOOD), write("c.csv", GOOD)]
    assert refused("table", files, split="given") == (
        f"{files[1]}: stands in the place of the valid file; the order is train, valid and test"
    )


def test_one_file_given_twice(write: Write) -> None:
    files = [write("a.csv", GOOD), write("b.csv", GOOD)]
    files.append(files[0].parent / ".." / files[0].parent.name / "a.csv")
    for options in ({}, {"split": "given"}):
        assert refused("table", files, **options) == f"{files[2]}: given twice; expected different files"


def test_rows_with_a_history_cannot_lose_interactions(write: Write) -> None:
    sequential = "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n"
    files = [write(f"x.{part}.inter", sequential) for part in ("train", "valid", "test")]
    for options in ({"min_rating": 3}, {"core": 2}, {"item_core": 2}):
        assert "from which no interactions can be removed" in refused("recbole", files, **options)


def test_an_existing_output_is_refused_before_anything_is_read(write: Write, tmp_path: Path) -> None:
    path, out = write("t.csv", GOOD), tmp_path / "o"
    prepare("table", [path], out)
    before = json.loads((out / "dataset.json").read_text())
    with pytest.raises(UserError, match="already holds a prepared dataset; use --force to replace it"):
        prepare("table", [tmp_path / "none.csv"], out)
    assert json.loads((out / "dataset.json").read_text()) == before
    prepare("table", [path], out, force=True, split="timestamp", valid_from=3, test_from=4)
    assert json.loads((out / "dataset.json").read_text())["options"]["split"] == "timestamp"
    assert sorted(os.listdir(tmp_path)) == ["o", "t.csv"]


def test_a_fault_with_force_keeps_the_old_dataset(write: Write, tmp_path: Path) -> None:
    prepare("table", [write("t.csv", GOOD)], tmp_path / "o")
    with pytest.raises(UserError, match="has no value"):
        prepare("table", [write("bad.csv", "user_id,item_id\nu,\n")], tmp_path / "o", force=True)
    assert (tmp_path / "o" / "dataset.json").is_file()

"""What users reported of files that were read plausibly but wrongly, from the command to the prepared histories."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rearec.cli.app import app
from rearec.data import SequenceDataset, load_dataset, prepare

Write = Callable[[str, "str | bytes"], Path]


def histories(dataset: SequenceDataset) -> dict[str, list[str]]:
    """The items of each user in order."""
    return {
        dataset.user_ids[dataset.sequence_user[number]]: [dataset.item_ids[item] for item in dataset.sequence(number)]
        for number in range(dataset.num_sequences)
    }


def run(*arguments: object, code: int = 0) -> str:
    """What the command prints, in one line."""
    result = CliRunner().invoke(app, ["prepare", *map(str, arguments)])
    assert result.exit_code == code, (result.output, result.exception)
    return " ".join(result.output.split())


def shuffled(rows: list[str]) -> str:
    random.Random(5).shuffle(rows)
    return "".join(rows)


VIEWS = "session_id,item_id,timeframe,eventdate\n" + shuffled(
    [f"s{s},i{(s + step) % 6},{100 * step},2016-05-{9 + s:02}\n" for s in range(4) for step in range(6)]
)
CLICKS = {f"s{s}": [f"i{(s + step) % 6}" for step in range(6)] for s in range(4)}


def test_sessions_of_one_day_are_in_the_order_of_the_file_which_is_said(write: Write, tmp_path: Path) -> None:
    path = write("views.csv", VIEWS)
    wrong = run(
        "table", path, "--user-column", "session_id", "--timestamp-column", "eventdate", "--out", tmp_path / "a"
    )
    assert (
        "column 'eventdate'; 100 % of neighbouring events in one history have equal timestamps: their order is" in wrong
    )
    assert histories(load_dataset(tmp_path / "a")) != CLICKS
    for columns in ("timeframe", "eventdate,timeframe"):
        out = tmp_path / columns
        said = run("table", path, "--user-column", "session_id", "--timestamp-column", columns, "--out", out)
        assert "0 % of neighbouring events" in said and histories(load_dataset(out)) == CLICKS


UNORDERED = shuffled([f"u{user}\ti{user + step}\t{1000 + step}\n" for user in range(5) for step in range(5)])
ORDERED = {f"u{user}": [f"i{user + step}" for step in range(5)] for user in range(5)}


@pytest.mark.parametrize("format", ["table", "recbole"])
def test_a_time_column_of_another_name_is_not_passed_over(format: str, write: Write, tmp_path: Path) -> None:
    headers = {"table": "user\titem\ttime\n", "recbole": "user_id:token\titem_id:token\ttime:float\n"}
    path = write("ev.tsv", headers[format] + UNORDERED)
    assert "column 'time' looks like times and is not used" in run(format, path, "--out", tmp_path / "a", code=2)
    run(format, path, "--timestamp-column", "time", "--out", tmp_path / "b")
    assert histories(load_dataset(tmp_path / "b")) == ORDERED
    said = run(format, path, "--no-timestamps", "--out", tmp_path / "c")
    assert "no timestamp column: that of the rows of the file is taken not used: time" in said


def test_sessions_without_a_user_are_not_one_user_in_silence(write: Write, tmp_path: Path) -> None:
    pairs = [(session, step) for session in range(12) for step in range(5)]
    rows = [f"{s};{s if s % 3 == 0 else 'NA'};i{step};{1000 * step};2016-05-{1 + s:02}\n" for s, step in pairs]
    path = write("views.csv", "session_id;user_id;item_id;timeframe;eventdate\n" + "".join(rows))
    layout = ("--separator", ";", "--timestamp-column", "eventdate,timeframe")
    said = run("table", path, *layout, "--out", tmp_path / "a")
    assert (
        "user 'NA' holds 66.7 % of all interactions (40 of 60): a missing value? --missing NA drops such rows" in said
    )
    assert "dropped 40 rows missing by --missing NA" in run(
        "table", path, *layout, "--missing", "NA", "--out", tmp_path / "b"
    )
    items = [f"i{step}" for step in range(5)]
    assert histories(load_dataset(tmp_path / "b")) == {str(s): items for s in (0, 3, 6, 9)}
    run("table", path, *layout, "--user-column", "session_id", "--out", tmp_path / "c")
    assert histories(load_dataset(tmp_path / "c")) == {str(s): items for s in range(12)}


def test_rows_of_recbole_without_user_or_item_are_dropped_if_asked(write: Write, tmp_path: Path) -> None:
    text = "user_id:token\titem_id:token\ttimestamp:float\n1\t\t0\n\t1\t1\n1\t1\t3\n1\t2\t4\n1\t3\t5\n1\t1\t6\n1\t4\t\n"
    path = write("x.inter", text)
    said = run("recbole", path, "--out", tmp_path / "a", code=2)
    assert "row 3: column 'user_id' has no value; --drop-incomplete leaves such rows out" in said
    said = run("recbole", path, "--drop-incomplete", "--out", tmp_path / "b")
    assert "dropped 3 rows without a user, an item or a time" in said
    assert histories(load_dataset(tmp_path / "b")) == {"1": ["1", "2", "3", "1"]}


CLICKED: list[dict[str, Any]] = [{"where": "label=1"}, {"rating_column": "label", "min_rating": 1}]


def test_impressions_are_no_clicks_which_is_said(write: Write, tmp_path: Path) -> None:
    pairs = [(user, step) for user in range(12) for step in range(24)]
    rows = [(user, step, int((user + step) % 4 == 0), 1573400000 + 50 * (step // 4)) for user, step in pairs]
    text = "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\n"
    path = write("MIND.inter", text + "".join(f"U{u}\tN{item}\t{label}\t{time}\n" for u, item, label, time in rows))
    said = run("recbole", path, "--out", tmp_path / "a")
    assert "not used: label (used: user_id, item_id, timestamp)" in said and "interactions 288" in said
    for number, options in enumerate(CLICKED):
        dataset = prepare("recbole", [path], tmp_path / str(number), **options)
        assert histories(dataset) == {
            f"U{user}": [f"N{item}" for u, item, label, _ in rows if u == user and label] for user in range(12)
        }


def test_lists_in_the_columns_of_hstu(write: Write, tmp_path: Path) -> None:
    header = "index,user_id,sequence_item_ids,sequence_ratings,sequence_timestamps\n"
    rows = '0,1,"5,6,7,8","5,4,3,5","1,4,3,9"\n1,2,"9,5,6,7","1,1,1,1","2,3,4,5"\n'
    path = write("sasrec_format.csv", header + rows)
    columns: dict[str, Any] = {"item_column": "sequence_item_ids", "timestamp_column": "sequence_timestamps"}
    assert histories(prepare("table", [path], tmp_path / "o", **columns)) == {
        "1": ["5", "7", "6", "8"],
        "2": ["9", "5", "6", "7"],
    }


def test_lists_of_objects_are_refused_with_what_they_are(write: Write, tmp_path: Path) -> None:
    path = write("steam.json", "{'user_id': 'x', 'items': [{'item_id': '10'}, {'item_id': '20'}]}\n" * 2)
    assert "no column 'item_id'; the columns are 'user_id', 'items'" in run(
        "table", path, "--out", tmp_path / "o", code=2
    )
    said = run("table", path, "--item-column", "items", "--out", tmp_path / "o", code=2)
    assert "row 1: 'items' is a dict; expected text or a number" in said


def test_ids_with_a_fraction_of_zero_beside_others_are_told(write: Write, tmp_path: Path) -> None:
    rows = [f"{user},{item}{suffix},{item}\n" for user, suffix in (("u", ""), ("v", ".0")) for item in range(97, 101)]
    said = run("table", write("t.csv", "user_id,item_id,timestamp\n" + "".join(rows)), "--out", tmp_path / "o")
    assert "4 items occur with and without .0, such as '97.0' and '97'" in said


def test_days_as_numbers_are_not_taken_for_counts(write: Write, tmp_path: Path) -> None:
    source = random.Random(1)
    limits = (18, 20, 2, 12, 28)
    days = [tuple(source.randrange(limit) for limit in limits) for _ in range(400)]
    files = {}
    for name, mark in (("iso", "-"), ("ymd", "")):
        rows = [f"u{u},i{i},{2018 + y}{mark}{m + 1:02}{mark}{d + 1:02}\n" for u, i, y, m, d in days]
        files[name] = write(f"{name}.csv", "user_id,item_id,timestamp\n" + "".join(rows))
    split = ("--split", "time-span", "--valid-from", 0.8, "--test-from", 0.9)
    run("table", files["iso"], *split, "--out", tmp_path / "iso")
    said = run("table", files["ymd"], *split, "--out", tmp_path / "ymd", code=2)
    assert "looks like a date YYYYMMDD, not a count: --time-format %Y%m%d reads it" in said
    run("table", files["ymd"], *split, "--time-format", "%Y%m%d", "--out", tmp_path / "ymd")
    datasets = [load_dataset(tmp_path / name) for name in files]
    assert histories(datasets[0]) == histories(datasets[1])
    counts = [[len(dataset.rows(part)) for part in ("train", "valid", "test")] for dataset in datasets]
    assert counts[0] == counts[1] and 0.75 < (counts[0][0] + 18) / 400 < 0.85

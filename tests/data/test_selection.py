"""Rows that count: conditions, missing values, item patterns, and lists spread out over rows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rearec.data import SequenceDataset, prepare
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

EVENTS = "user_id,item_id,timestamp,event,label\n" + "".join(
    f"{user},i{number},{number},{'view' if number % 3 else 'cart'},{number % 2}\n"
    for user in "uv"
    for number in range(12)
)


def items(dataset: SequenceDataset, sequence: int = 0) -> list[str]:
    return [dataset.item_ids[item] for item in dataset.sequence(sequence)]


def refused(path: Path, format: str = "table", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        prepare(format, [path], path.parent / "out", **options)
    return str(caught.value).removeprefix(f"{path}: ")


CONDITIONS = {
    "event=view": lambda number: number % 3 != 0,
    "event!=view": lambda number: number % 3 == 0,
    "event=view,cart": lambda number: True,
    "label=1": lambda number: number % 2 == 1,
    "label=1.0": lambda number: number % 2 == 1,
    "label != 1": lambda number: number % 2 == 0,
    "timestamp>=7": lambda number: number >= 7,
    "timestamp > 6.5": lambda number: number > 6.5,
    "timestamp<1e1": lambda number: number < 10,
    "timestamp<=+4": lambda number: number <= 4,
}


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_conditions(condition: str, ending: str, write: Write, tmp_path: Path) -> None:
    path = write("t.csv", EVENTS)
    frame = pl.read_csv(path)
    if ending == ".parquet":
        frame.write_parquet(path := tmp_path / "t.parquet")
    elif ending == ".jsonl":
        frame.write_ndjson(path := tmp_path / "t.jsonl")
    dataset = prepare("table", [path], tmp_path / "o", where=(condition,))
    kept = [f"i{number}" for number in range(12) if CONDITIONS[condition](number)]
    assert items(dataset) == items(dataset, 1) == kept
    assert f"dropped {24 - 2 * len(kept)} rows not" in dataset.source["findings"]["suspicious"]
    assert re.split("[=!<>]", condition)[0].strip() not in dataset.source["findings"]["not used"].split("(")[0]


def test_all_conditions_are_met_together(write: Write, tmp_path: Path) -> None:
    dataset = prepare("table", [write("t.csv", EVENTS)], tmp_path / "o", where=("event=view", "label=1"))
    assert items(dataset) == ["i1", "i5", "i7", "i11"]


def test_conditions_on_recbole_and_amazon_files(write: Write, tmp_path: Path) -> None:
    rows = [line.split(",") for line in EVENTS.splitlines()]
    types = ("token", "token", "float", "token", "float")
    header = "\t".join(f"{name}:{kind}" for name, kind in zip(rows[0], types, strict=True))
    path = write("t.inter", header + "\n" + "".join("\t".join(row) + "\n" for row in rows[1:]))
    assert items(prepare("recbole", [path], tmp_path / "o", where="event=cart")) == ["i0", "i3", "i6", "i9"]


def test_conditions_that_cannot_be(write: Write) -> None:
    path = write("t.csv", EVENTS)
    assert refused(path, where="price=1").startswith("no column 'price'; the columns are 'user_id'")
    assert refused(path, where="event=buy") == "there are no interactions left: dropped 24 rows not event=buy"
    assert refused(write("s.txt", "u a\n"), "sasrec", where="event=view").startswith(
        "--where is for the formats 'table'"
    )


def test_conditions_compare_exactly_and_tokens_as_they_are(write: Write, tmp_path: Path) -> None:
    big = 2**53
    shops = ["007", "7", "7.0", "+7", "7.00", "7.50", "07", "8"]
    rows = [f"u,{shop},{number},{big + number},{shop}\n" for number, shop in enumerate(shops)]
    path = write("t.csv", "user_id,item_id,timestamp,key,shop\n" + "".join(rows))
    assert items(prepare("table", [path], tmp_path / "a", where="shop=7")) == ["7", "7.0", "+7", "7.00"]
    assert items(prepare("table", [path], tmp_path / "b", where="shop!=7")) == ["007", "7.50", "07", "8"]
    assert "(timestamps from 5 to 5) leaves no train rows" in refused(path, where="shop=7.5")
    assert items(prepare("table", [path], tmp_path / "c", where=f"key!={big + 1}")) == ["007", *shops[2:]]
    assert items(prepare("table", [path], tmp_path / "d", where=f"key>{big}")) == shops[1:]


@pytest.mark.parametrize("condition", ["new=true", "new=True", "new=1", "new!=false", "new!=0"])
def test_conditions_on_flags(condition: str, tmp_path: Path) -> None:
    rows = [{"user_id": "u", "item_id": f"i{n}", "timestamp": n, "new": n % 2 == 0} for n in range(8)]
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    dataset = prepare("table", [tmp_path / "t.parquet"], tmp_path / "o", where=condition)
    assert items(dataset) == ["i0", "i2", "i4", "i6"]


def test_conditions_on_lists_hold_for_each_of_their_items(tmp_path: Path) -> None:
    rows = {"user_id": ["u", "v"], "item_id": [[1, 2, 3, 4, 5], [6]], "timestamp": [[5, 1, 4, 2, 3], [1]]}
    rows |= {
        "event_type": [["like", "listen", "like", "like", "like"], ["listen"]],
        "part": [1, 1],
        "tags": [["x"], []],
    }
    pl.DataFrame(rows).write_parquet(path := tmp_path / "t.parquet")
    dataset = prepare("table", [path], tmp_path / "o", where=("event_type=like", "part=1"))
    assert items(dataset) == ["4", "5", "3", "1"] and dataset.num_users == 1
    assert "row 1: 5 values in 'item_id', but 1 in 'tags'" in refused(path, where="tags=x")


def test_conditions_that_compare_no_numbers(write: Write, tmp_path: Path) -> None:
    path = write("t.csv", EVENTS)
    assert refused(path, where="event>=3") == ("--where event>=3: column 'event' also holds 'cart', which is no number")
    assert refused(path, where="label>x") == "--where 'label>x': 'x' is no number; > compares numbers"
    frame = {"user_id": ["u"] * 5, "item_id": list("abcde"), "at": [date(2020, 1, n + 1) for n in range(5)]}
    pl.DataFrame(frame | {"box": [{"n": n} for n in range(5)]}).write_parquet(path := tmp_path / "t.parquet")
    assert refused(path, where="at>3", timestamp_column="at").endswith("column 'at' is of type Date; expected numbers")
    assert "column 'box' is of type Struct" in refused(path, where="box=3", timestamp_column="at")
    assert items(prepare("table", [path], tmp_path / "o", where="at!=2020-01-02", timestamp_column="at")) == list(
        "acde"
    )


HOLED = "user_id,item_id,timestamp\nu,a,1\nNA,b,2\nu,b,3\n,c,3\nu,,4\nu,c,\nu,d,6\nu,e,7\nu,NA,8\n"


def test_incomplete_rows_are_refused_or_dropped_with_a_count(write: Write, tmp_path: Path) -> None:
    path = write("t.csv", HOLED)
    assert refused(path) == "row 5: column 'user_id' has no value; --drop-incomplete leaves such rows out"
    dataset = prepare("table", [path], tmp_path / "o", drop_incomplete=True)
    assert items(dataset) == ["a", "b", "d", "e", "NA"]
    assert "dropped 3 rows without a user, an item or a time" in dataset.source["findings"]["suspicious"]


def test_tokens_that_stand_for_nothing_are_dropped_when_told(write: Write, tmp_path: Path) -> None:
    path = write("t.csv", HOLED)
    dataset = prepare("table", [path], tmp_path / "o", missing="NA", drop_incomplete=True)
    assert dataset.user_ids == ["u"] and items(dataset) == ["a", "b", "d", "e"]
    assert "dropped 2 rows missing by --missing NA" in dataset.source["findings"]["suspicious"]
    assert "row 5: column 'user_id' has no value" in refused(path, missing="NA")


@pytest.mark.parametrize("format", ["sasrec", "lines", "json"])
def test_missing_tokens_of_formats_without_columns(format: str, write: Write, tmp_path: Path) -> None:
    histories = {"u": ["a", "-1", "b", "c", "d"], "-1": ["a", "b", "c"], "v": ["c", "b"]}
    text = {
        "sasrec": "".join(f"{user} {item}\n" for user, row in histories.items() for item in row),
        "lines": "".join(f"{user} {' '.join(row)}\n" for user, row in histories.items()),
        "json": json.dumps(histories),
    }[format]
    path = write("h.json" if format == "json" else "h.txt", text)
    dataset = prepare(format, [path], tmp_path / "o", missing=("-1", "NA"))
    assert dataset.user_ids == ["u", "v"] and items(dataset) == ["a", "b", "c", "d"]
    assert "dropped 4 rows missing by --missing -1, NA" in dataset.source["findings"]["suspicious"]
    found = prepare(format, [path], tmp_path / "p").source["findings"]["suspicious"]
    assert "user '-1' holds 30 % of all interactions (3 of 10): a missing value? --missing -1 drops such rows" in found


def test_a_missing_rating_or_number_is_no_rating(write: Write, tmp_path: Path) -> None:
    path = write(
        "t.csv",
        "user_id,item_id,rating,timestamp\n" + "".join(f"u,i{n},{'NA' if n == 1 else n},{n}\n" for n in range(4)),
    )
    assert "row 3: column 'rating' is 'NA', not a number" in refused(path)
    assert items(prepare("table", [path], tmp_path / "o", missing="NA")) == ["i0", "i1", "i2", "i3"]


LISTS = {
    "json": (
        "t.jsonl",
        '{"user_id": 1, "item_id": [5, 6, 7, 8], "timestamp": [1, 3, 2, 4]}\n'
        '{"user_id": 2, "item_id": [], "timestamp": []}\n',
    ),
    "csv": ("t.csv", 'user_id,item_id,timestamp\n1,"5,6,7,8","1,3,2,4"\n'),
    "brackets": ("t.csv", 'user_id,item_id,timestamp\n1,"[5, 6, 7, 8]","[1, 3, 2, 4]"\n'),
    "quoted": ("t.csv", "user_id;item_id;timestamp\n1;['5', '6', '7', '8'];[1, 3, 2, 4]\n"),
    "blanks": ("t.csv", "user_id,item_id,timestamp\n1,5 6 7 8,1 3 2 4\n"),
    "bars": ("t.csv", "user_id,item_id,timestamp\n1,5|6|7|8,1|3|2|4\n2,9,7\n"),
}


@pytest.mark.parametrize(("name", "text"), LISTS.values(), ids=LISTS.keys())
def test_a_row_per_user(name: str, text: str, write: Write, tmp_path: Path) -> None:
    options = {"separator": ";"} if ";" in text else {}
    dataset = prepare("table", [write(name, text)], tmp_path / "o", **options)
    assert items(dataset) == ["5", "7", "6", "8"]


@pytest.mark.parametrize("values", [[5, 6, 7, 8], ["5", "6", "7", "8"]], ids=["numbers", "text"])
def test_a_row_per_user_in_parquet(values: list[Any], tmp_path: Path) -> None:
    frame = {
        "uid": ["u", "v"],
        "item_id": [values, values[:1]],
        "timestamp": [[1, 3, 2, 4], [9]],
        "ratings": [[1] * 4, [5]],
    }
    pl.DataFrame(frame).write_parquet(tmp_path / "t.parquet")
    options = {"user_column": "uid", "rating_column": "ratings"}
    dataset = prepare("table", [tmp_path / "t.parquet"], tmp_path / "o", **options)
    assert items(dataset) == ["5", "7", "6", "8"] and items(dataset, 1) == ["5"]
    assert items(prepare("table", [tmp_path / "t.parquet"], tmp_path / "p", min_rating=1, **options)) == [
        "5",
        "7",
        "6",
        "8",
    ]


def test_lists_that_do_not_fit_together(write: Write) -> None:
    path = write("t.jsonl", '{"user_id": 1, "item_id": ["a", "b"], "timestamp": [1, 2, 3]}\n')
    assert refused(path) == "row 1: 2 values in 'item_id', but 3 in 'timestamp'"
    path = write("u.jsonl", '{"user_id": 1, "item_id": "a", "timestamp": [1, 2, 3]}\n')
    assert refused(path) == "column 'timestamp' holds lists, but the items in 'item_id' are none"


def test_text_is_split_into_lists_without_times_only_when_told(write: Write, tmp_path: Path) -> None:
    path = write("t.csv", 'user,item\nu,"a,b,c,d"\nv,"d,c"\n')
    assert items(prepare("table", [path], tmp_path / "o", lists=True)) == ["a", "b", "c", "d"]
    single = write("s.csv", 'user_id,item_id,timestamp\n"u","a,x",1\nu,"b,x",2\nu,"c,x",3\nu,"d,x",4\n')
    assert items(prepare("table", [single], tmp_path / "p")) == ["a,x", "b,x", "c,x", "d,x"]


def test_items_by_a_pattern(write: Write, tmp_path: Path) -> None:
    text = "user_id\timpressions\ttimestamp\nu\tN1-0 N2-1\t1\nu\tN3-1\t2\nu\tN4-0\t3\nu\tN5-1 N6-1\t4\n"
    path = write("behaviors.tsv", text)
    options = {"item_column": "impressions", "lists": True, "item_pattern": "(.+)-1"}
    dataset = prepare("table", [path], tmp_path / "o", **options)
    assert items(dataset) == ["N2", "N3", "N5", "N6"]
    assert "dropped 2 rows not of the form --item-pattern (.+)-1" in dataset.source["findings"]["suspicious"]
    assert items(prepare("table", [path], tmp_path / "p", **options | {"item_pattern": "N[1235]-."})) == [
        *("N1-0", "N2-1", "N3-1", "N5-1"),
    ]
    assert refused(path, **options | {"item_pattern": "("}).startswith("--item-pattern '(': no regular expression")

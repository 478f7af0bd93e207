"""Every fault of the input is one line that names the file and the row or column, and leaves no output behind."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from refusals import GOOD, refused

Write = Callable[[str, "str | bytes"], Path]

ATOMIC = "user_id:token\titem_id:token\ttimestamp:float\nu\ta\t1\nu\tb\t2\nu\tc\t3\nu\td\t4\n"


@pytest.mark.parametrize("format", ["amazon2023", "json", "lines", "recbole", "sasrec", "table"])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("empty", b"", "the file is empty"),
        ("blank", b" \n\n", "the file is empty"),
        ("latin", "u a\nü b\n".encode("latin-1"), "row 2: not UTF-8 text (byte 0xfc)"),
        ("cut.gz", gzip.compress(GOOD.encode() * 50)[:-40], "truncated gzip"),
        ("header.gz", gzip.compress(GOOD.encode())[:5], "truncated gzip"),
        ("plain.gz", GOOD.encode(), "not a gzip file, although its name ends in .gz"),
        ("damaged.gz", gzip.compress(GOOD.encode())[:12] + bytes(60), "damaged gzip"),
    ],
)
def test_unreadable_files(format: str, name: str, content: bytes, expected: str, tmp_path: Path) -> None:
    stem, _, gz = name.partition(".")
    path = tmp_path / (f"{stem}.csv.{gz}" if gz else f"{stem}.csv")
    path.write_bytes(content)
    assert refused(format, [path]).startswith(f"{path}: {expected}")


@pytest.mark.parametrize("format", ["amazon2023", "json", "lines", "recbole", "sasrec", "table"])
def test_missing_files_and_directories(format: str, tmp_path: Path) -> None:
    assert refused(format, [tmp_path / "none.csv"]) == f"{tmp_path / 'none.csv'}: no such file"
    (tmp_path / "d.csv").mkdir()
    assert refused(format, [tmp_path / "d.csv"]).startswith(f"{tmp_path / 'd.csv'}: no file for the format {format!r}")


TABLE_FAULTS = {
    "missing column": (
        "who,item_id\nu,a\n",
        "no column 'user_id'; the columns are 'who', 'item_id'",
    ),
    "column twice": ("user_id,item_id,item_id\nu,a,b\n", "the column 'item_id' occurs more than once"),
    "no rows": ("user_id,item_id\n", "the table has no rows"),
    "empty id": ("user_id,item_id\nu,a\nu,\n", "row 3: column 'item_id' has no value"),
    "short row": ("user_id,item_id\nu,a\n\nu\n", "row 4: column 'item_id' has no value"),
    "long row": ("user_id,item_id\nu,a\nu,b,c\n", "row 3: 3 fields, but the first row has 2"),
    "open quote": ('user_id,item_id\nu,a\n"u,b\n', "row 3: cannot be parsed as a table"),
    "rating": (GOOD.replace("b,4", "b,four"), "row 3: column 'rating' is 'four', not a number"),
    "timestamp": (GOOD.replace("3,3", "3,soon"), "row 4: column 'timestamp' is 'soon', not a number"),
    "no timestamp": (GOOD.replace("3,3", "3,"), "row 4: column 'timestamp' has no value"),
    "blank timestamp": (GOOD.replace("3,3", "3, "), "row 4: column 'timestamp' has no value"),
    "infinite timestamp": (GOOD.replace("3,3", "3,inf"), "row 4: column 'timestamp' is 'inf', not a finite number"),
    "nan timestamp": (GOOD.replace("3,3", "3,nan"), "row 4: column 'timestamp' is 'nan', not a finite number"),
    "first timestamp": (
        GOOD.replace("5,1", "5,soon"),
        "row 2: column 'timestamp' is 'soon', not a number or an ISO 8601 date",
    ),
    "no such day": (
        "user_id,item_id,timestamp\nu,a,2020-01-01\nu,b,2020-02-30\n",
        "row 3: column 'timestamp' is '2020-02-30', not a number or an ISO 8601 date",
    ),
}


@pytest.mark.parametrize(("content", "expected"), TABLE_FAULTS.values(), ids=TABLE_FAULTS.keys())
def test_faults_of_csv_tables(content: str, expected: str, write: Write) -> None:
    path = write("t.csv.gz", content)
    assert refused("table", [path]).startswith(f"{path}: {expected}")


def test_a_named_column_must_exist(write: Write) -> None:
    path = write("t.csv", "user_id,item_id\nu,a\n")
    assert "no column 'stars'" in refused("table", [path], rating_column="stars")
    assert "no column 'when'" in refused("table", [path], timestamp_column="when")


def test_an_unknown_kind_of_table_is_refused(write: Write) -> None:
    assert "unknown kind of table '.xls'" in refused("table", [write("t.xls.gz", GOOD)])


JSON_LINE_FAULTS = {
    "not json": ('{"user_id":"u","item_id":"a"}\n\n{"user_id":"u",\n', "row 3: not json:"),
    "cut": ('{"user_id":"u","item_id":"a"}\n{"user_id":"u","item_id"', "row 2: not json:"),
    "first line": ("user_id,item_id\n", "row 1: not json:"),
    "no object": ('{"user_id":"u","item_id":"a"}\n["u","b"]\n', "row 2: expected a json object, got a list"),
    "missing column": ('{"who":"u","item_id":"a"}\n', "no column 'user_id'; the columns are 'who', 'item_id'"),
    "no column": ('\n{"who":"u","what":"a"}\n', "no column 'user_id'; the columns are 'who', 'what'"),
    "missing value": ('{"user_id":"u","item_id":"a"}\n\n{"user_id":"u"}\n', "row 3: column 'item_id' has no value"),
    "null": ('{"user_id":"u","item_id":"a"}\n{"user_id":"u","item_id":null}', "row 2: column 'item_id' has no value"),
    "list": (
        '{"user_id":"u","item_id":"a"}\n{"user_id":"u","item_id":["a"]}\n',
        "row 2: 'item_id' is a list, but in rows above it is otherwise",
    ),
    "flag": (
        '{"user_id":"u","item_id":"a"}\n{"user_id":true,"item_id":"a"}\n',
        "row 2: 'user_id' is a bool; expected text or a number",
    ),
    "half a character": ('{"user_id":"\\ud800","item_id":"a"}\n', "row 1: 'user_id' holds half of a surrogate pair"),
    "empty id": ('{"user_id":"u","item_id":"a"}\n{"user_id":"u","item_id":""}', "row 2: column 'item_id' has no value"),
    "nested": ("{}\n" + "[" * 100_000, "row 2: the json is nested too deeply"),
    "huge": ('{"user_id":' + "1" * 5000 + "}\n", "row 1: a number that cannot be read: Exceeds the limit"),
    "no field": ("{}\n{}\n", "no column 'user_id'; the columns are (none)"),
}


@pytest.mark.parametrize(("content", "expected"), JSON_LINE_FAULTS.values(), ids=JSON_LINE_FAULTS.keys())
def test_faults_of_json_lines(content: str, expected: str, write: Write) -> None:
    path = write("t.jsonl", content)
    assert refused("table", [path]).startswith(f"{path}: {expected}")


def test_faults_of_parquet(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    good = {"user_id": ["u", "u"], "item_id": [1, 2]}

    def fault(**columns: Any) -> str:
        pl.DataFrame(good | columns).write_parquet(path)
        return refused("table", [path])

    assert fault(item_id=[1.0, 2.0]) == f"{path}: column 'item_id' is of type Float64; expected text or whole numbers"
    assert fault(item_id=[1, None]).startswith(f"{path}: row 2: column 'item_id' has no value; --drop-incomplete")
    assert fault(rating=[True, False]) == f"{path}: column 'rating' is of type Boolean; expected numbers"
    assert fault(timestamp=[[1], [2]]).startswith(f"{path}: column 'timestamp' holds lists, but the items in")
    assert fault(timestamp=[1.0, None]).startswith(f"{path}: row 2: column 'timestamp' has no value")
    assert fault(timestamp=[1.0, float("nan")]).startswith(f"{path}: row 2: column 'timestamp' is 'nan'")
    coarse = pl.Series([1.6e12, 1.7e12], dtype=pl.Float32)
    assert fault(timestamp=coarse).startswith(f"{path}: column 'timestamp' is float32, too coarse")
    large = pl.Series([1, 2**64 - 1], dtype=pl.UInt64)
    assert fault(timestamp=large).startswith(
        f"{path}: row 2: column 'timestamp' is '18446744073709551615', not a 64-bit"
    )
    pl.DataFrame(good).clear().write_parquet(path)
    assert refused("table", [path]) == f"{path}: the table has no rows"
    path.write_text(GOOD)
    assert refused("table", [path]).startswith(f"{path}: not a parquet file")


RECBOLE_FAULTS = {
    "no type": ("user_id\titem_id:token\nu\ta\n", "row 1: header field 1 is 'user_id'; expected name:type"),
    "unknown type": (
        "user_id:int\titem_id:token\nu\ta\n",
        "row 1: header field 1 is 'user_id:int'; expected name:type",
    ),
    "wrong type": (
        ATOMIC.replace("item_id:token", "item_id:float"),
        "column 'item_id' is of type float; expected token",
    ),
    "wrong time": (ATOMIC.replace("p:float", "p:token"), "column 'timestamp' is of type token; expected float"),
    "missing column": (ATOMIC.replace("item_id", "what"), "no column 'item_id'; the columns are 'user_id', 'what'"),
    "column twice": (
        "user_id:token\titem_id:token\titem_id:float\nu\ta\t1\n",
        "the column 'item_id' occurs more than once",
    ),
    "no number": (ATOMIC.replace("c\t3", "c\tx"), "row 4: column 'timestamp' is 'x', not a number"),
    "commas": (ATOMIC.replace("\t", ","), "row 1: header field 1 is 'user_id:token,item_id:token,timestamp:float'"),
    "rows with history": (
        "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n",
        "holds rows with a history ('item_id_list'), which are split already",
    ),
}


@pytest.mark.parametrize(("content", "expected"), RECBOLE_FAULTS.values(), ids=RECBOLE_FAULTS.keys())
def test_faults_of_atomic_files(content: str, expected: str, write: Write) -> None:
    path = write("x.inter", content)
    assert refused("recbole", [path]).startswith(f"{path}: {expected}")


def test_only_some_files_with_histories(write: Write) -> None:
    sequential = "user_id:token\titem_id_list:token_seq\titem_id:token\nu\ta b\tc\n"
    files = [write("x.train.inter", sequential), write("x.valid.inter", ATOMIC), write("x.test.inter", sequential)]
    assert refused("recbole", files).startswith(f"{files[1]}: no column 'item_id_list:token_seq', but {files[0]} has")


AMAZON_FAULTS = {
    "few fields": ("u,a,5\nu,b,5\n", "row 1: 3 fields; expected user_id,parent_asin,rating,timestamp,history"),
    "many fields": ("u,a,5,1,,x\n", "row 1: 6 fields; expected user_id,parent_asin"),
    "long row": ("u,a,5,1,\nu,b,5,2,a,b\n", "row 2: 6 fields, but the first row has 5"),
    "missing column": ("user_id,asin,rating,timestamp\nu,a,5,1\n", "no column 'parent_asin'"),
    "rating": ("u,a,5,1,\nu,b,good,2,a\n", "row 2: column 'rating' is 'good', not a number"),
    "timestamp": ("u,a,5,1,\nu,b,5,late,a\n", "row 2: column 'timestamp' is 'late', not a number"),
    "no item": ("user_id,parent_asin,rating,timestamp\nu,a,5,1\nu,,5,2\n", "row 3: column 'parent_asin' has no value"),
}


@pytest.mark.parametrize(("content", "expected"), AMAZON_FAULTS.values(), ids=AMAZON_FAULTS.keys())
def test_faults_of_amazon_files(content: str, expected: str, write: Write) -> None:
    path = write("a.csv", content)
    assert refused("amazon2023", [path]).startswith(f"{path}: {expected}")


TEXT_FAULTS = {
    "three fields": ("sasrec", "u a\n\nu b c\n", "row 3: 3 fields; expected 'user item'"),
    "one field": ("sasrec", "u,a\n", "row 1: 1 fields; expected 'user item'"),
    "commas": ("lines", "u a b\nv,a,b\n", "row 2: one field; expected 'user item item ...'"),
    "user again": ("lines", "u a b\nv a\nu c\n", "row 3: user 'u' again (also in row 1)"),
    "no json": ("json", '{"u": ["a",\n "b"', "row 2, column 5: not json"),
    "list": ("json", '[["u", "a"]]', "expected a json object {user: [items]}, got a list"),
    "no list": ("json", '{"u": ["a"], "v": "b"}', "user 'v': expected a list of items, got a str"),
    "float": ("json", '{"u": ["a", 1.5]}', "user 'u': 1.5 is no item; expected text or a whole number"),
    "flag": ("json", '{"u": [true]}', "user 'u': True is no item"),
    "null": ("json", '{"u": [null]}', "user 'u': None is no item"),
    "empty": ("json", '{"u": ["a", ""]}', "user 'u': '' is no item"),
    "half a user": ("json", '{"\\ud800": ["a"]}', "user '\\ud800' holds half of a surrogate pair"),
    "half an item": ("json", '{"u": ["a\\udc00"]}', "user 'u': 'a\\udc00' holds half of a surrogate pair"),
    "nested": ("json", "[" * 100_000, "the json is nested too deeply"),
    "huge": ("json", '{"u": [' + "1" * 5000 + "]}", "a number that cannot be read: Exceeds the limit"),
    "key twice": ("json", '{"u": ["a"], "v": ["b"], "u": ["c"]}', "the key 'u' occurs more than once in one object"),
}


@pytest.mark.parametrize(("format", "content", "expected"), TEXT_FAULTS.values(), ids=TEXT_FAULTS.keys())
def test_faults_of_text_and_json(format: str, content: str, expected: str, write: Write) -> None:
    path = write("x.txt", content)
    assert refused(format, [path]).startswith(f"{path}: {expected}")


def test_a_stream_that_ends_between_blocks_is_truncated(tmp_path: Path) -> None:
    compressor = zlib.compressobj(wbits=31)
    data = compressor.compress(GOOD.encode()) + compressor.flush(zlib.Z_SYNC_FLUSH)
    path = tmp_path / "t.csv.gz"
    path.write_bytes(data)
    assert refused("table", [path]).startswith(f"{path}: truncated gzip")

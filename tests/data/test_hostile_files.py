"""Files as people have them: exports of spreadsheets, joined files, pages in place of data, lists, odd names."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rearec.data import SequenceDataset, prepare
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

ROWS = [(f"u{user}", f"i{(7 * step + user) % 11}", 100 + 10 * step) for user in range(2) for step in range(5)]
HISTORIES = {f"u{user}": [item for who, item, _ in ROWS if who == f"u{user}"] for user in range(2)}


def table(separator: str = ",", header: str | None = "user_id,item_id,timestamp", tail: str = "") -> str:
    lines = [separator.join(map(str, row)) + tail for row in ROWS]
    return "\n".join(lines if header is None else [header.replace(",", separator), *lines]) + "\n"


def histories(dataset: SequenceDataset) -> dict[str, list[str]]:
    return {
        dataset.user_ids[dataset.sequence_user[number]]: [dataset.item_ids[item] for item in dataset.sequence(number)]
        for number in range(dataset.num_sequences)
    }


def read(path: Path, format: str = "table", **options: Any) -> SequenceDataset:
    return prepare(format, [path], path.parent / "out", force=True, **options)


def refused(path: Path, format: str = "table", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        read(path, format, **options)
    return str(caught.value).removeprefix(f"{path}: ")


def suspicious(dataset: SequenceDataset) -> str:
    result: str = dataset.source["findings"]["suspicious"]
    return result


@pytest.mark.parametrize("line", ["sep=;\n", "sep=;\r\n", '"sep=;"\n', "\ufeffsep=;\n", "\nsep=;\n\n"])
def test_the_first_line_of_excel_is_no_header(line: str, write: Write) -> None:
    path = write("t.csv", line + table(";"))
    assert histories(read(path, separator=";")) == HISTORIES
    assert "fields are separated by ';', it says: --separator ';'" in refused(path)
    assert histories(read(write("u.csv", "sep=,\n" + table()))) == HISTORIES


HEADERS = {
    "case": ("User_ID,Item_ID,Timestamp", "'User_ID' is not 'user_id'"),
    "no underscore": ("userid,itemid,timestamp", "'userid' is not 'user_id'"),
    "blanks": (" user_id , item_id, timestamp", "' user_id ' is not 'user_id'"),
    "two marks": ("\ufeff\ufeffuser_id,item_id,timestamp", r"'\ufeffuser_id' is not 'user_id'"),
}


@pytest.mark.parametrize(("header", "hint"), HEADERS.values(), ids=HEADERS)
def test_names_that_almost_fit_are_pointed_out(header: str, hint: str, write: Write) -> None:
    assert f"({hint}: give the name as the file has it)" in refused(write("t.csv", table(header=header)))


def test_rows_that_are_longer_than_the_header_from_the_first_on(write: Write) -> None:
    hint = "a separator that ends each line, or the row names of R, need a name in the header too"
    assert hint in refused(write("t.csv", table(tail=",")))
    assert histories(read(write("u.csv", table(header="user_id,item_id,timestamp,", tail=",")))) == HISTORIES
    assert hint not in refused(write("v.csv", table() + "u1,i1,9,9\n"))


def test_comments_are_no_header(write: Write) -> None:
    assert "the first row begins with #: lines of comments are taken for data, remove them" in refused(
        write("t.csv", "# exported on Monday\n" + table())
    )


@pytest.mark.parametrize("header", ["user_id,item_id", "user_id,item_id,timestamp"])
def test_the_header_of_a_second_file_is_no_event(header: str, write: Write) -> None:
    width = header.count(",") + 1
    part = "".join(",".join(line.split(",")[:width]) + "\n" for line in table().splitlines())
    path = write("joined.csv", part + part.replace("u0", "v0").replace("u1", "v1"))
    assert refused(path) == "row 12: the header again; --missing user_id drops such rows"
    dataset = read(path, missing="user_id")
    assert list(histories(dataset)) == ["u0", "u1", "v0", "v1"]
    assert "dropped 1 rows missing by --missing user_id" in suspicious(dataset)


@pytest.mark.parametrize("header", ["visitor,product", "sessionId,itemId", "USER_ID,ASIN", "Item ID,Customer"])
def test_a_header_beside_names_is_no_event(header: str, write: Write) -> None:
    rows = "".join(f"{user},{item}\n" for user, item, _ in ROWS)
    assert "looks like a header" in refused(write("t.csv", f"{header}\n{rows}"), columns="user,item")
    for first in ("ann,itemA", "ann,item a", "u,product-7", "x,y"):
        assert read(write("u.csv", f"{first}\n{rows}"), columns="user,item").num_interactions == 11


OTHERS = {
    "page": ("t.csv", "<!DOCTYPE html>\n<html><body>Sign in</body></html>\n", "a web page, not data"),
    "page without type": ("t.tsv", "\n<HTML>\n<body>x,y</body>\n", "a web page, not data"),
    "page for json": ("t.jsonl", "<!doctype html>\n", "a web page, not data"),
    "pointer": ("t.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a pointer of Git LFS"),
    "pointer for parquet": ("t.parquet", "version https://git-lfs.github.com/spec/v1\noid x\n", "a pointer of Git LFS"),
    "parquet": ("t.csv", b"PAR1\x15\x04\n\x15PAR1", "a parquet file: let its name end in .parquet"),
    "json": ("t.csv", '{"user_id": "u", "item_id": "a", "timestamp": 1}\n' * 3, "it looks like json"),
    "objects over lines": ("t.json", '{\n"user_id": "u"\n}\n' * 2, "json objects over several lines"),
    "typed ids": ("t.jsonl", '{"user_id": {"$oid": "5f"}, "item_id": {"$oid": "6f"}}\n' * 2, "'user_id' is a dict"),
}


@pytest.mark.parametrize(("name", "content", "message"), OTHERS.values(), ids=OTHERS)
def test_what_is_no_table_of_that_kind_is_named(name: str, content: str | bytes, message: str, write: Write) -> None:
    assert message in refused(write(name, content))


def test_gzip_in_gzip_is_read(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz.gz"
    path.write_bytes(gzip.compress(gzip.compress(table().encode())))
    assert histories(read(path)) == HISTORIES


def test_text_that_an_encoding_would_garble_is_refused(write: Write) -> None:
    path = write("t.csv", table().replace("u0", "é"))
    for encoding in ("latin-1", "cp1252", "iso-8859-15"):
        assert refused(path, encoding=encoding).startswith(f"is UTF-8 text, which --encoding {encoding} would garble")
    assert list(histories(read(path))) == ["é", "u1"]
    path = write("u.csv", table().replace("u0", "é").encode("latin-1"))
    assert list(histories(read(path, encoding="latin-1"))) == ["é", "u1"]


def test_titles_have_an_encoding_of_their_own(write: Write) -> None:
    path = write("t.csv", table().replace("u0", "é"))
    titles = write("m.csv", b"item_id,title\n" + "".join(f"i{n},Café {n}\n" for n in range(11)).encode("cp1252"))
    dataset = read(path, titles=str(titles), title_encoding="cp1252")
    assert dataset.user_ids == ["é", "u1"] and dataset.item_titles == [f"Café {item[1:]}" for item in dataset.item_ids]


def test_titles_are_read_from_an_array(write: Write) -> None:
    for name in ("item", "item_id"):
        titles = write("m.json", json.dumps([{name: f"i{n}", "title": f"T{n}"} for n in range(11)], indent=1))
        dataset = read(write("t.csv", table()), titles=str(titles))
        assert dataset.item_titles == [f"T{item[1:]}" for item in dataset.item_ids]


REMNANTS = {
    "blank": ("{user}, {item},{time}", "all items begin with ' ', such as ' i0'"),
    "quotes": ("{user},'{item}',{time}", "all items end in \"'\", such as \"'i0'\""),
    "colon": ("{user}:,{item},{time}", "all users end in ':', such as 'u0:'"),
    "rounded": ("{user},1.20E+15,{time}", "items written with an exponent: 1, such as '1.20E+15'"),
    "lists": ('{user},"{time},{item}",{time}', "items that look like lists: 10, such as '100,i0': --lists reads"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "said"), REMNANTS.values(), ids=REMNANTS)
def test_ids_that_were_cut_at_the_wrong_place_are_told(form: str, said: str, write: Write) -> None:
    rows = [form.format(user=user, item=item, time=time) + "\n" for user, item, time in ROWS]
    assert said in suspicious(read(write("t.csv", "user_id,item_id,timestamp\n" + "".join(rows))))
    assert not any(word in suspicious(read(write("u.csv", table()))) for word in ("all items", "exponent", "lists"))


def test_a_blank_user_is_dropped_as_incomplete(write: Write) -> None:
    path = write("t.csv", table() + " ,i1,500\n")
    assert (
        "user ' ' holds 9.09 % of all interactions (1 of 11): a missing value? --drop-incomplete drops"
        in suspicious(read(path))
    )
    assert histories(read(path, drop_incomplete=True)) == HISTORIES


@pytest.mark.parametrize("first", ["1970-01-01", "1970-01-01 00:00:00", "1969-12-31T23:59:59Z"])
def test_dates_of_nothing_among_others_are_told(first: str, write: Write) -> None:
    rows = [f"u,i{n},{first if n == 3 else f'2020-01-0{n + 1}'}\n" for n in range(8)]
    said = suspicious(read(write("t.csv", "user_id,item_id,timestamp\n" + "".join(rows))))
    assert "1 timestamps are 1970-01-01 or less, all others 2020-01-01T00:00:00.000000 or more" in said
    early = [f"u,i{n},19{60 + n}-01-01\n" for n in range(15)]
    assert "1970" not in suspicious(read(write("u.csv", "user_id,item_id,timestamp\n" + "".join(early))))


PARTS = [
    "train{}.csv valid{}.csv test{}.csv".format(*[tail] * 3) for tail in ("1", "set", "_data", "-set", "Data", "2")
]


@pytest.mark.parametrize(
    "names", [*PARTS, "TrainSet.csv ValSet.csv TestSet.csv", "my-trainSet.csv devSet.csv x_testing.csv"]
)
def test_names_of_parts_in_one_word_with_others(names: str, write: Write, tmp_path: Path) -> None:
    paths = [write(name, table().replace(",1", f",{place}1")) for place, name in enumerate(names.split(), start=1)]
    dataset = prepare("table", paths, tmp_path / "o")
    assert dataset.source["findings"]["split"].startswith("given (train ")
    assert len(dataset.rows("test")) == len(dataset.rows("valid")) == 10


@pytest.mark.parametrize("names", ["latest.csv contest.csv trainer.csv", "trainers.csv validators.csv testers.csv",
                                   "attested.csv constrain.csv valley.csv"])  # fmt: skip
def test_names_that_only_hold_such_letters(names: str, write: Write, tmp_path: Path) -> None:
    paths = [write(name, table().replace("\nu", f"\n{name[:2]}u")) for name in names.split()]
    assert prepare("table", paths, tmp_path / "o").source["findings"]["split"].startswith("leave-one-out")


@pytest.mark.parametrize("link", [os.symlink, os.link], ids=["symbolic", "hard"])
def test_two_names_of_one_file_are_one_file(link: Callable[[Path, Path], None], write: Write, tmp_path: Path) -> None:
    path = write("t.csv", table())
    link(path, tmp_path / "other.csv")
    with pytest.raises(UserError, match="given twice"):
        prepare("table", [path, tmp_path / "other.csv"], tmp_path / "o")


def test_whole_decimals_are_ids_and_arrays_are_lists(tmp_path: Path) -> None:
    frame = {"user_id": ["u"] * 5, "item_id": [Decimal(n) for n in range(5)], "timestamp": [5, 3, 1, 4, 2]}
    pl.DataFrame(frame).write_parquet(path := tmp_path / "t.parquet")
    assert histories(read(path)) == {"u": ["2", "4", "1", "3", "0"]}
    pl.DataFrame(frame | {"item_id": [Decimal(n) / 2 for n in range(5)]}).write_parquet(path)
    assert "column 'item_id' is of type Decimal" in refused(path)
    items = pl.Series([[1, 2, 3, 4]], dtype=pl.Array(pl.Int64, 4))
    times = pl.Series([[1, 4, 2, 3]], dtype=pl.Array(pl.Int64, 4))
    pl.DataFrame({"user_id": ["u"], "item_id": items, "timestamp": times}).write_parquet(path)
    assert histories(read(path)) == {"u": ["1", "3", "4", "2"]}


LISTS = {
    "texts with commas": ("\"['a, x', 'b', 'c', 'd']\"", ["a, x", "b", "c", "d"]),
    "json texts": ('"[""a, x"", ""b"", ""it\'s"", ""d""]"', ["a, x", "b", "it's", "d"]),
    "numpy over lines": ('"[1 2\n 3 4]"', ["1", "2", "3", "4"]),
    "tuple": ('"(1, 2, 3, 4)"', ["1", "2", "3", "4"]),
}


@pytest.mark.parametrize(("cell", "items"), LISTS.values(), ids=LISTS)
def test_lists_as_programs_print_them(cell: str, items: list[str], write: Write) -> None:
    assert histories(read(write("t.csv", f"user,item\nu,{cell}\n"), lists=True)) == {"u": items}


def test_a_list_row_has_one_time_in_several_words(write: Write) -> None:
    text = "user_id\titem_id\ttimestamp\nu\t1 2 3\t11/12/2019 1:00:00 AM\nu\t4 5 6\t11/11/2019 9:05:58 PM\n"
    options: dict[str, Any] = {"lists": True, "time_format": "%m/%d/%Y %I:%M:%S %p"}
    assert histories(read(write("t.tsv", text), **options)) == {"u": ["4", "5", "6", "1", "2", "3"]}


def test_ratings_are_lists_where_items_and_times_are(write: Write) -> None:
    text = 'user_id,item_id,rating,timestamp\nu,"1,2,3,4,5","5,5,1,5,4","1,2,3,4,5"\n'
    assert histories(read(write("t.csv", text), min_rating=2)) == {"u": ["1", "2", "4", "5"]}


def test_conditions_on_flags_and_further_fields_of_json(write: Write) -> None:
    rows = [{"user_id": "u", "item_id": f"i{n}", "timestamp": n, "ok": n % 2 == 0, "note": None} for n in range(9)]
    path = write("t.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    even = {"u": [f"i{n}" for n in range(0, 9, 2)]}
    for where in ("ok=true", "ok=1", "ok==True", "ok!=false"):
        assert histories(read(path, where=where)) == even
    assert read(path, where="note=").num_interactions == 9
    reviews = [
        {"user_id": "u", "parent_asin": f"i{n}", "rating": 5.0, "timestamp": n, "verified_purchase": n % 2 == 0}
        for n in range(9)
    ]
    path = write("r.jsonl", "".join(json.dumps(row) + "\n" for row in reviews))
    assert histories(read(path, "amazon2023", where="verified_purchase=true")) == even
    stars = [{"user_id": "u", "business_id": f"i{n}", "stars": 5.0, "date": f"2020-01-0{n + 1} 00:00:00", "cool": n % 2}
             for n in range(9)]  # fmt: skip
    path = write("y.json", "".join(json.dumps(row) + "\n" for row in stars))
    options: dict[str, Any] = {
        "where": "cool=0",
        "split": "leave-one-out",
        "core": 1,
        "min_rating": 1,
        "min_target_rating": 1,
    }
    options |= {"known_items": False, "min_train_history": 0, "min_eval_history": 0}
    assert histories(read(path, "yelp", **options)) == even


def test_a_value_may_hold_commas_and_a_token_be_written_otherwise(write: Write) -> None:
    rows = [f"u,i{n},{'0.0' if n == 8 else n + 1},{chr(34)}{'a,b' if n % 2 else 'a'}{chr(34)}\n" for n in range(9)]
    path = write("t.csv", "user_id,item_id,timestamp,c\n" + "".join(rows))
    assert read(path, where="c=a,b").num_interactions == 9
    assert histories(read(path, where="c!=a"))["u"] == ["i1", "i3", "i5", "i7"]
    assert read(path, missing="0").num_interactions == 8

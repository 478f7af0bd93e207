"""Item titles from every kind of metadata file, and what happens to items without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rearec.data import SequenceDataset, load_dataset, prepare
from rearec.data.preparation.titles import read_titles
from rearec.data.tables.layout import Layout
from rearec.errors import UserError

Write = Callable[[str, str], Path]
RowsOf = Callable[[SequenceDataset, str], list[tuple[str, tuple[str, ...], str]]]

TITLES = {"a": 'The "A"', "b": "B, or not"}

FILES = {
    "m.item": 'item_id:token\ttitle:token_seq\tyear:float\na\tThe "A"\t1\nb\tB, or not\t2\nc\t\t3\na\tagain\t4\n',
    "m.csv": 'item_id,title\na,"The ""A"""\nb,"B, or not"\nc,\na,again\n',
    "m.tsv.gz": 'title\titem_id\nThe "A"\ta\n  B, or not \tb\n \tc\n',
    "m.jsonl": "".join(
        json.dumps({"item_id": k, "title": v, "x": [1]}) + "\n" for k, v in [*TITLES.items(), ("c", None)]
    ),
    "m.json": json.dumps(
        {**{k: {"title": v, "brand": "x"} for k, v in TITLES.items()}, "c": {"brand": "y"}, "d": None}
    ),
    "plain.json.gz": json.dumps({**TITLES, "c": " "}),
    "array.json": json.dumps([{"item_id": k, "title": v} for k, v in [*TITLES.items(), ("c", None)]], indent=1),
    "literals.json": "".join(f"{{u'item_id': {k!r}, 'title': {v!r}, 'n': 1}}\n" for k, v in TITLES.items()),
}


@pytest.mark.parametrize("name", FILES)
def test_titles_are_read_from_every_kind_of_file(name: str, write: Write) -> None:
    titles = read_titles(write(name, FILES[name]), "item_id", "title")
    assert {item: title for item, title in titles.items() if title} == TITLES


def test_a_file_called_item_whose_columns_are_named_is_a_table(write: Write) -> None:
    path = write("u.item", "1|Toy Story (1995)|01-Jan-1995\n2|GoldenEye: again|\n")
    layout = Layout(separator="|", names=("item", "title", "released"))
    assert read_titles(path, None, "title", layout) == {"1": "Toy Story (1995)", "2": "GoldenEye: again"}


def test_a_blank_title_is_empty_and_a_null_is_none(write: Write) -> None:
    lines = [{"parent_asin": "a", "title": None}, {"parent_asin": "b", "title": " "}, {"parent_asin": "c"}]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, {"parent_asin": "d", "title": "D "}])
    for name in ("m.jsonl", "m.json.gz"):
        assert read_titles(write(name, text), "parent_asin", "title") == {"b": "", "d": "D"}
    nothing = write("n.jsonl", '{"parent_asin": "a", "title": null}\n')
    assert read_titles(nothing, "parent_asin", "title") == {}
    with pytest.raises(UserError, match="no column 'title'"):
        read_titles(write("o.jsonl", '{"parent_asin": "a"}\n'), "parent_asin", "title")


def test_titles_are_read_from_parquet(tmp_path: Path) -> None:
    pl.DataFrame({"asin": ["a", "b"], "name": [*TITLES.values()]}).write_parquet(tmp_path / "m.parquet")
    assert read_titles(tmp_path / "m.parquet", "asin", "name") == TITLES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.json", '["a"]', "row 1: expected a json object"),
        ("m.json", '{"a": {"title": 5}}', "item 'a': its title is a int; expected text"),
        ("m.json", '{"a": ["x"]}', "item 'a': its title is a list; expected text"),
        ("m.json", '{"a": "\\ud800"}', "item 'a': its title holds half of a surrogate pair"),
        ("m.item", "item_id\ttitle\na\tA\n", "row 1: header field 1"),
        ("m.csv", "asin,title\na,A\n", "no column 'item_id'"),
        ("m.csv", "item_id,title\n,A\n", "row 2: column 'item_id' has no value"),
    ],
)
def test_faulty_metadata_is_refused(name: str, content: str, message: str, write: Write) -> None:
    path = write(name, content)
    with pytest.raises(UserError) as caught:
        read_titles(path, "item_id", "title")
    assert str(caught.value).startswith(f"{path}: {message}")


def test_titles_go_with_their_items(write: Write, tmp_path: Path) -> None:
    source, titles = write("l.txt", "u b a b a\n"), write("m.csv", FILES["m.csv"])
    prepare("lines", [source], tmp_path / "o", titles=titles)
    assert load_dataset(tmp_path / "o").item_titles == ["B, or not", 'The "A"']


def test_items_without_a_title_can_be_kept(write: Write, tmp_path: Path) -> None:
    source, titles = write("l.txt", "u c a b a\n"), write("m.csv", FILES["m.csv"])
    dataset = prepare("lines", [source], tmp_path / "o", titles=titles, missing_titles="keep")
    assert dataset.item_titles == [None, 'The "A"', "B, or not"]


def test_rows_that_involve_an_item_without_a_title_can_be_dropped(
    write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    source, titles = write("l.txt", "u a b a b c a\nv a b a b\nw c a b a\n"), write("m.csv", FILES["m.csv"])
    dataset = prepare("lines", [source], tmp_path / "o", titles=titles, missing_titles="drop")
    assert dataset.item_ids == ["a", "b"] and dataset.user_ids == ["u", "v"]
    assert rows_of(dataset, "train") == [("u", tuple("ab"[:n]), "ba"[n - 1]) for n in (1, 2)] + [
        ("u", ("a", "b", "a"), "b"),
        ("v", ("a",), "b"),
    ]
    assert rows_of(dataset, "valid") == [("v", ("a", "b"), "a")]
    assert rows_of(dataset, "test") == [("v", ("a", "b", "a"), "b")]


def test_amazon_metadata_is_found_by_parent_asin(write: Write, tmp_path: Path) -> None:
    lines = "".join(f"u,{item},5,{moment},\n" for moment, item in enumerate("abab"))
    meta = "".join(json.dumps({"title": v, "parent_asin": k, "price": None}) + "\n" for k, v in TITLES.items())
    options: dict[str, Any] = {"titles": write("meta.jsonl.gz", meta)}
    assert prepare("amazon2023", [write("a.csv", lines)], tmp_path / "o", **options).item_titles == [*TITLES.values()]

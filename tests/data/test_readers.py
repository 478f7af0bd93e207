"""Readers: the same interactions written in any format give the same prepared arrays."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rearec.data import FORMATS, PrepareOptions, SequenceDataset, prepare
from rearec.data.readers.formats import SOURCE_FORMATS
from rearec.data.tables.table import Table
from rearec.fields import settings

Interaction = tuple[str, str, int]
Write = Callable[[str, str], Path]
RowsOf = Callable[[SequenceDataset, str], list[tuple[str, tuple[str, ...], str]]]

# Without blanks, control characters and lone surrogates; with quotes, separators, leading zeros and other scripts.
TOKENS = st.one_of(
    st.from_regex(r"0{0,2}[0-9]{1,3}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=4),
    st.sampled_from(['"', "a,b", "{x", "[1", "null", "1.0", "1e5", "true", "-7", "#c", "é", "日本", "a:b", "\\n"]),
)


@st.composite
def interactions_in_order(draw: st.DrawFn) -> list[Interaction]:
    """Users one after the other, each in time order; the first has enough items for all three splits."""
    users = draw(st.lists(TOKENS, min_size=1, max_size=5, unique=True))
    catalog = draw(st.lists(TOKENS, min_size=1, max_size=6, unique=True))
    result = []
    start = draw(st.integers(0, 2**53))
    for number, user in enumerate(users):
        items = draw(st.lists(st.sampled_from(catalog), min_size=4 if number == 0 else 1, max_size=7))
        result += [(user, item, start + step // 2) for step, item in enumerate(items)]
    return result


def as_csv(rows: list[list[Any]], separator: str = ",") -> str:
    """The rows with standard quoting; for a tab as separator without any."""
    if separator == "\t":
        return "".join("\t".join(map(str, row)) + "\n" for row in rows)
    text = io.StringIO()
    csv.writer(text, delimiter=separator).writerows(rows)
    return text.getvalue()


def by_user(interactions: list[Interaction]) -> Iterator[tuple[str, list[str]]]:
    """(user, items) of interactions that are in order."""
    for user, group in itertools.groupby(interactions, key=lambda interaction: interaction[0]):
        yield user, [item for _, item, _ in group]


def histories(interactions: list[Interaction]) -> Iterator[tuple[str, str, int, list[str]]]:
    """(user, item, time, history) of interactions that are in order."""
    seen: dict[str, list[str]] = {}
    for user, item, moment in interactions:
        yield user, item, moment, list(seen.setdefault(user, []))
        seen[user].append(item)


def written(folder: Path, interactions: list[Interaction]) -> Iterator[tuple[str, Path, dict[str, Any]]]:
    """The interactions in every format: (format, file, options)."""
    header = ["user_id", "item_id", "timestamp"]
    rows: list[list[Any]] = [list(interaction) for interaction in interactions]
    texts = {
        "sasrec": ("s.txt", "".join(f"{user} {item}\n" for user, item, _ in interactions)),
        "lines": ("l.txt", "".join(f"{user}\t{' '.join(items)}\r\n" for user, items in by_user(interactions))),
        "json": ("j.json", json.dumps(dict(by_user(interactions)))),
        "recbole": ("r.inter", as_csv([["user_id:token", "item_id:token", "timestamp:float"], *rows], "\t")),
        "amazon2023": (
            "a.csv",
            as_csv(
                [["user_id", "parent_asin", "rating", "timestamp", "history"]]
                + [[u, i, "5.0", t, " ".join(h)] for u, i, t, h in histories(interactions)]
            ),
        ),
    }
    for format, (name, text) in texts.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        yield format, folder / name, {}
        (folder / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        yield format, folder / f"{name}.gz", {}
    tables = {
        "t.csv": as_csv([header, *rows]),
        "t.tsv": as_csv([header, *rows], "\t"),
        "t.jsonl": "\n\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows),
    }
    for name, text in tables.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
        yield "table", folder / name, {"quoting": "none"} if name.endswith(".tsv") else {}
    (folder / "t.psv").write_text("\ufeff" + as_csv([header, *rows], "|"), encoding="utf-8", newline="")
    yield "table", folder / "t.psv", {"separator": "|"}
    columns = [pl.Series("who", [r[0] for r in rows]), pl.Series("what", [r[1] for r in rows])]
    pl.DataFrame([*columns, pl.Series("when", [r[2] for r in rows])]).write_parquet(folder / "t.parquet")
    names = {"user_column": "who", "item_column": "what", "timestamp_column": "when"}
    yield "table", folder / "t.parquet", names


@hypothesis_settings(max_examples=40, deadline=None)
@given(interactions_in_order())
def test_every_format_gives_the_same_arrays(interactions: list[Interaction]) -> None:
    users = list(dict.fromkeys(user for user, _, _ in interactions))
    catalog = list(dict.fromkeys(item for _, item, _ in interactions))
    with tempfile.TemporaryDirectory() as name:
        for number, (format, path, options) in enumerate(written(Path(name), interactions)):
            dataset = prepare(format, [path], Path(name) / f"out{number}", **options)
            assert dataset.user_ids == users and dataset.item_ids == catalog, (format, path)
            assert dataset.items.tolist() == [catalog.index(item) for _, item, _ in interactions]
            lengths = [len(items) for _, items in by_user(interactions)]
            assert dataset.offsets.tolist() == np.cumsum([0, *lengths]).tolist()
            assert dataset.sequence_user.tolist() == list(range(len(users)))
            held_out = [s for s, length in enumerate(lengths) if length >= 3]
            assert dataset.rows("test").tolist() == [[s, lengths[s] - 1] for s in held_out]
            assert dataset.rows("valid").tolist() == [[s, lengths[s] - 2] for s in held_out]
            train = [[s, p] for s, n in enumerate(lengths) for p in range(1, n - 2 if n >= 3 else n)]
            assert dataset.rows("train").tolist() == train


@hypothesis_settings(max_examples=40, deadline=None)
@given(interactions_in_order(), st.randoms(use_true_random=False))
def test_rows_in_any_order_are_sorted_by_time_and_ties_keep_the_order_of_the_source(
    interactions: list[Interaction], random: Any
) -> None:
    random.shuffle(interactions)
    expected: dict[str, list[str]] = {}
    for user, item, _ in sorted(interactions, key=lambda interaction: interaction[2]):
        expected.setdefault(user, []).append(item)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "t.csv"
        path.write_text(as_csv([["user_id", "item_id", "timestamp"], *map(list, interactions)]), "utf-8", newline="")
        dataset = prepare("table", [path], Path(name) / "out")
    assert dataset.user_ids == list(dict.fromkeys(user for user, _, _ in interactions))
    assert dataset.item_ids == list(dict.fromkeys(item for _, item, _ in interactions))
    for sequence, user in enumerate(dataset.user_ids):
        assert [dataset.item_ids[item] for item in dataset.sequence(sequence)] == expected[user]


@hypothesis_settings(max_examples=40, deadline=None)
@given(interactions_in_order(), st.data())
def test_given_rows_with_histories_keep_their_split(interactions: list[Interaction], data: st.DataObject) -> None:
    rows = [(user, tuple(history), item) for user, item, _, history in histories(interactions)]
    parts = [data.draw(st.integers(0, 2)) for _ in rows]
    parts[1:4] = [0, 1, 2]
    expected = [
        sorted(row for row, part in zip(rows, parts, strict=True) if part == wanted and (row[1] or part > 0))
        for wanted in range(3)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        amazon, recbole = [], []
        for part, split in enumerate(("train", "valid", "test")):
            kept = [row for row, its_part in zip(rows, parts, strict=True) if its_part == part]
            amazon.append(folder / f"x.{split}.csv")
            lines = [[user, item, "4.0", 17, " ".join(history)] for user, history, item in kept]
            head = [["user_id", "parent_asin", "rating", "timestamp", "history"]] if data.draw(st.booleans()) else []
            if not head and lines and lines[0][0] == "user_id":
                head = [["user_id", "parent_asin", "rating", "timestamp", "history"]]
            amazon[-1].write_text(as_csv(head + lines), "utf-8", newline="")
            recbole.append(folder / f"x.{split}.inter")
            head = [["user_id:token", "item_id_list:token_seq", "item_id:token"]]
            lines = [[user, " ".join(history), item] for user, history, item in kept]
            recbole[-1].write_text(as_csv(head + lines, "\t"), "utf-8", newline="")
        for format, files in (("amazon2023", amazon), ("recbole", recbole)):
            dataset = prepare(format, files, folder / format)
            for part, split in enumerate(("train", "valid", "test")):
                found = decode(dataset, split)
                assert sorted(found) == expected[part], (format, split)


def decode(dataset: SequenceDataset, split: Any) -> list[tuple[str, tuple[str, ...], str]]:
    """(user, history, target) of each row, as tokens."""
    result = []
    for sequence, position in dataset.rows(split).tolist():
        tokens = [dataset.item_ids[item] for item in dataset.sequence(sequence)]
        result.append((dataset.user_ids[dataset.sequence_user[sequence]], tuple(tokens[:position]), tokens[position]))
    return result


def test_three_interaction_files_keep_their_split_in_one_history(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    head = "user_id,item_id,timestamp\n"
    files = [
        write("train.csv", head + "u,b,2\nu,a,1\nu,e,5\nv,a,9\n"),
        write("valid.csv", head + "u,c,3\nw,a,1\n"),
        write("test.csv", head + "u,d,4\n"),
    ]
    dataset = prepare("table", files, tmp_path / "out")
    # The history of a row is all that came before in time, whatever its file.
    assert rows_of(dataset, "train") == [("u", ("a",), "b"), ("u", ("a", "b", "c", "d"), "e")]
    assert rows_of(dataset, "valid") == [("u", ("a", "b"), "c"), ("w", (), "a")]
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]
    assert dataset.statistics["valid_rows_without_history"] == 1


def test_three_text_files_keep_their_split_in_the_order_of_the_files(
    write: Write, rows_of: RowsOf, tmp_path: Path
) -> None:
    files = [write("train.txt", "u a b\nv c a\n"), write("valid.txt", "u c\n"), write("test.txt", "u a\nv b\n")]
    dataset = prepare("lines", files, tmp_path / "out")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "a"), ("v", ("c", "a"), "b")]


def test_several_files_are_read_one_after_the_other(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    files = [write("1.txt", "u a\nu b\n"), write("2.txt", "u c\nu d\nv a\n")]
    dataset = prepare("sasrec", files, tmp_path / "out")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]
    files.append(write("3.txt", "u e\n"))
    dataset = prepare("sasrec", files, tmp_path / "three", split="leave-one-out")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c", "d"), "e")]


def test_given_amazon_files_can_be_split_anew(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    head = "user_id,parent_asin,rating,timestamp,history\n"
    files = [
        write("a.train.csv", head + "u,a,5,1,\nu,b,5,2,a\n"),
        write("a.valid.csv", head + "u,c,5,3,a b\n"),
        write("a.test.csv", head + "u,d,5,4,a b c\n"),
    ]
    dataset = prepare("amazon2023", files, tmp_path / "out", split="leave-one-out")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]
    assert rows_of(dataset, "train") == [("u", ("a",), "b")]


def test_a_given_history_need_not_repeat_in_earlier_rows(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    head = "user_id,parent_asin,rating,timestamp,history\n"
    files = [
        write("train.csv", head + "u,b,5,2,a\nu,x,5,2,c a\nu,y,5,2,c a x\n"),
        write("valid.csv", head + "u,d,5,3,a b c\n"),
        write("test.csv", head + "u,e,5,4,a b c d\nu,e,5,4,a c\n"),
    ]
    dataset = prepare("amazon2023", files, tmp_path / "out")
    assert sorted(rows_of(dataset, "train")) == [
        ("u", ("a",), "b"),
        ("u", ("c", "a"), "x"),
        ("u", ("c", "a", "x"), "y"),
    ]
    assert rows_of(dataset, "valid") == [("u", ("a", "b", "c"), "d")]
    assert sorted(rows_of(dataset, "test")) == [("u", ("a", "b", "c", "d"), "e"), ("u", ("a", "c"), "e")]
    # The longest history is shared; three rows contradict it.
    assert dataset.num_sequences == 4
    assert dataset.num_interactions == 5 + 3


def test_repeated_given_rows_are_kept_dropped_or_refused(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    head = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    files = [
        write("x.train.inter", head + "u\ta\tb\nu\ta\tb\n"),
        write("x.valid.inter", head + "u\ta b\tc\n"),
        write("x.test.inter", head + "u\ta b c\td\n"),
    ]
    assert len(rows_of(prepare("recbole", files, tmp_path / "keep"), "train")) == 2
    assert len(rows_of(prepare("recbole", files, tmp_path / "first", duplicates="first"), "train")) == 1
    with pytest.raises(Exception, match=r"x\.train\.inter: row 3: the same user, history and item"):
        prepare("recbole", files, tmp_path / "error", duplicates="error")


def test_timestamps_with_a_fraction_keep_their_order(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    moments = ["1588615855.4", "1588615855.25", "1588615855.1", "1588615855"]
    lines = [f"u,{name},{moment}" for name, moment in zip("dcba", moments, strict=True)]
    dataset = prepare("table", [write("t.csv", "user_id,item_id,timestamp\n" + "\n".join(lines))], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]


def test_millisecond_timestamps_are_never_rounded(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    # In float32 all four would be one moment.
    for number, suffix in enumerate(("", ".0")):
        lines = [f"u\t{name}\t{1588615855073 - place}{suffix}" for place, name in enumerate("dcba")]
        head = "user_id:token\titem_id:token\ttimestamp:float\n"
        dataset = prepare("recbole", [write(f"{number}.inter", head + "\n".join(lines))], tmp_path / f"o{number}")
        assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]
    # Beyond 2**53 float64 would lose them too.
    lines = [f"u,{name},{1588615855073000004 - place}" for place, name in enumerate("dcba")]
    dataset = prepare("table", [write("t.csv", "user_id,item_id,timestamp\n" + "\n".join(lines))], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]


@pytest.mark.parametrize(
    "moments",
    [
        ["2020-01-02", "2020-01-02T00:00:01Z", "2020-01-02 00:00:01.5", "2020-01-02T01:00:03+01:00"],
        ["2019-12-31 23:59", "2020-01-01T00:59:30+01:00", "2020-01-01", "2020-01-01 00:00:00.000001"],
    ],
)
def test_dates_are_read_as_utc(moments: list[str], write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    lines = [f"u,{name},{moment}" for name, moment in reversed(list(zip("abcd", moments, strict=True)))]
    dataset = prepare("table", [write("t.csv", "user_id,item_id,timestamp\n" + "\n".join(lines))], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("a", "b", "c"), "d")]


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("ms"), pl.Datetime("ns"), pl.Datetime("us", "Europe/Paris")])
def test_date_columns_of_parquet_are_read(dtype: Any, rows_of: RowsOf, tmp_path: Path) -> None:
    days = pl.Series("timestamp", ["2020-01-04", "2020-01-03", "2020-01-02", "2020-01-01"]).str.to_date().cast(dtype)
    frame = pl.DataFrame({"user_id": [1, 1, 1, 1], "item_id": ["d", "c", "b", "a"]}).with_columns(days)
    frame.write_parquet(tmp_path / "t.parquet")
    options = {"split": "timestamp", "valid_from": "2020-01-03", "test_from": "2020-01-03T12:00"}
    dataset = prepare("table", [tmp_path / "t.parquet"], tmp_path / "o", **options)
    assert rows_of(dataset, "valid") == [("1", ("a", "b"), "c")]
    assert rows_of(dataset, "test") == [("1", ("a", "b", "c"), "d")]


def test_nanosecond_dates_keep_their_order(rows_of: RowsOf, tmp_path: Path) -> None:
    moments = pl.Series("timestamp", [1588615855073000004 - place for place in range(4)]).cast(pl.Datetime("ns"))
    frame = pl.DataFrame({"user_id": ["u"] * 4, "item_id": ["d", "c", "b", "a"]}).with_columns(moments)
    frame.write_parquet(tmp_path / "t.parquet")
    assert rows_of(prepare("table", [tmp_path / "t.parquet"], tmp_path / "o"), "test") == [("u", ("a", "b", "c"), "d")]


def test_categories_and_whole_numbers_are_ids(rows_of: RowsOf, tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 4, "item_id": pl.Series([7, 8, 9, 10], dtype=pl.UInt16)})
    frame.with_columns(pl.col("user_id").cast(pl.Categorical)).write_parquet(tmp_path / "t.parquet")
    assert rows_of(prepare("table", [tmp_path / "t.parquet"], tmp_path / "o"), "test") == [("u", ("7", "8", "9"), "10")]


@pytest.mark.parametrize("values", [[3.0, 1.0], ["3.0", " 1e0"], [3, 1], ["3", "1"]])
def test_whole_timestamps_are_int64_however_they_are_written(values: list[Any]) -> None:
    times = Table(Path("t"), pl.DataFrame({"t": values}), np.arange(2)).times("t")
    assert times.values.dtype == np.int64 and times.values.tolist() == [3, 1] and times.unit == "number"


@pytest.mark.parametrize(
    ("format", "content"),
    [("sasrec", "u a\nu b\nu c\nu d\n"), ("lines", "u a b c d"), ("json", '{"u": ["a", "b", "c", "d"]}')],
)
def test_a_byte_order_mark_is_no_part_of_the_first_id(format: str, content: str, write: Write, tmp_path: Path) -> None:
    assert prepare(format, [write("x", "\ufeff" + content)], tmp_path / "o").user_ids == ["u"]


def test_leading_zeros_survive(write: Write, tmp_path: Path) -> None:
    dataset = prepare("sasrec", [write("s.txt", "01 007\n01 07\n01 7\n01 0007\n")], tmp_path / "o")
    assert dataset.user_ids == ["01"] and dataset.item_ids == ["007", "07", "7", "0007"]


def test_without_timestamps_the_source_is_taken_as_ordered(write: Write, rows_of: RowsOf, tmp_path: Path) -> None:
    dataset = prepare("table", [write("t.csv", "user_id,item_id\nu,b\nu,a\nv,c\nu,d\nu,c\n")], tmp_path / "o")
    assert rows_of(dataset, "test") == [("u", ("b", "a", "d"), "c")]


def test_ids_do_not_depend_on_hash_order(write: Write, tmp_path: Path) -> None:
    names = [f"item{number}" for number in range(50)]
    source = write("l.txt", "u " + " ".join(names) + "\nv " + " ".join(reversed(names)))
    assert prepare("lines", [source], tmp_path / "o").item_ids == names


@pytest.mark.parametrize("format", FORMATS)
def test_what_the_table_of_formats_names_is_there(format: str) -> None:
    source = SOURCE_FORMATS[format]
    for name in filter(None, (source.reader, source.histories)):
        module, function = name.split(":")
        assert callable(getattr(importlib.import_module(f"rearec.data.readers.{module}"), function))
    assert set(source.options) <= set(settings(PrepareOptions))


def test_a_quoted_header_of_an_amazon_file_is_a_header(write: Write, tmp_path: Path) -> None:
    names = '"user_id","parent_asin","rating","timestamp"\n'
    path = write("a.csv", names + "".join(f'"u","i{place}",5,{place}\n' for place in range(4)))
    dataset = prepare("amazon2023", [path], tmp_path / "out")
    assert dataset.user_ids == ["u"] and dataset.item_ids == ["i0", "i1", "i2", "i3"]

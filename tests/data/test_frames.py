"""Datasets from data frames in memory: the same as from a file that holds them, whatever library they are of."""

from __future__ import annotations

import datetime
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from rearec.data import Dataset, SequenceDataset, prepare
from rearec.errors import UserError


def to_pandas(frame: pl.DataFrame) -> Any:
    return frame.to_pandas()


def to_pyarrow(frame: pl.DataFrame) -> Any:
    return frame.to_arrow()


KINDS: dict[str, Callable[[pl.DataFrame], Any]] = {
    "polars": lambda frame: frame,
    "lazy": lambda frame: frame.lazy(),
    "dict": lambda frame: frame.to_dict(as_series=False),
    "arrays": lambda frame: {name: frame[name].to_numpy() for name in frame.columns},
    "pandas": to_pandas,
    "pyarrow": to_pyarrow,
}


def random_frame(seed: int) -> pl.DataFrame:
    """Events with integer or text ids, times of several kinds, with and without ratings, and a column of no use."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(60, 300))
    users, items = rng.integers(1, 15, count), rng.integers(1, 40, count)
    time = rng.permutation(count) + 1_600_000_000
    days = [datetime.datetime(2020, 1, 1) + datetime.timedelta(minutes=int(value)) for value in time - time.min()]
    columns: dict[str, Any] = {
        "who": users if seed % 2 else [f"ü {user}" for user in users],
        "what": [f"i{item}" for item in items] if seed % 3 else items,
        "when": days if seed % 4 < 2 else time,
        "note": ["x"] * count,
        "name": [f"Title of {item}" for item in items],
    }
    if seed % 5 < 3:
        columns["rating"] = rng.integers(1, 6, count).astype(float)
    return pl.DataFrame(columns)


def assert_same(one: SequenceDataset, other: SequenceDataset) -> None:
    assert one.fingerprint == other.fingerprint
    assert (one.item_ids, one.user_ids, one.item_titles) == (other.item_ids, other.user_ids, other.item_titles)
    assert one.statistics == other.statistics
    # As json holds them: a dataset that was not saved has tuples.
    assert json.dumps(one.options) == json.dumps(other.options)
    assert one.source["removed"] == other.source["removed"]

    found = (json.dumps(each.source["findings"]).replace("frame", "file") for each in (one, other))
    assert next(found) == next(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(6))
def test_a_frame_is_as_a_file_that_holds_it(seed: int, kind: str, tmp_path: Path) -> None:
    frame = random_frame(seed)
    options: dict[str, Any] = {"core": 2, "duplicates": "first" if seed % 2 else "keep"}
    if "rating" in frame.columns:
        options["min_rating"] = 2
    frame.write_csv(tmp_path / "t.csv")
    columns = {"user_column": "who", "item_column": "what", "timestamp_column": "when", "title_column": "name"}
    of_file = prepare("table", [tmp_path / "t.csv"], tmp_path / "d", **columns, **options)
    made = Dataset.from_frame(KINDS[kind](frame), user="who", item="what", time="when", titles="name", **options)
    assert_same(made, of_file)
    made.save(tmp_path / "saved")
    assert_same(Dataset.load(tmp_path / "saved"), made)
    in_memory = Dataset.from_files(
        tmp_path / "t.csv", user="who", item="what", time="when", title_column="name", **options
    )
    assert_same(in_memory, of_file)


def events(count: int = 12, **columns: Any) -> dict[str, Any]:
    """Three users of four events each; ``columns`` stand beside or in place of theirs."""
    users, items = np.repeat([7, 8, 9], 4)[:count].tolist(), [f"i{n % 5}" for n in range(count)]
    return {"u": users, "i": items, "t": list(range(count)), **columns}


def made(frame: Any, **options: Any) -> Dataset:
    return Dataset.from_frame(frame, **{"user": "u", "item": "i", "time": "t", **options})


def refused(frame: Any, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        made(frame, **options)
    return str(caught.value)


def test_ids_of_every_type_are_the_same_ids() -> None:
    numbers = np.repeat([7, 8, 9], 4)
    plain = made(events(u=numbers))
    assert plain.user_ids == ["7", "8", "9"]
    text = [str(number) for number in numbers]
    for values in (
        numbers.astype(float),
        numbers.astype(np.float32),
        numbers.astype(np.uint16),
        np.asarray(text),
        np.asarray(text, dtype=object),
        pd.Series(numbers, dtype="Int64"),
        pd.Series(text, dtype="string"),
        pd.Series(text, dtype=object),
        pd.Series(text, dtype="category"),
        pd.Series(numbers, dtype="category"),
        pd.Index(numbers),
        pl.Series(text, dtype=pl.Categorical),
        numbers.tolist(),
    ):
        for frame in (events(u=values), pd.DataFrame(events(u=np.zeros(12))).assign(u=pd.Series(values))):
            if isinstance(values, pl.Series) and not isinstance(frame, dict):
                continue
            assert made(frame).user_ids == plain.user_ids
            assert made(frame).fingerprint == plain.fingerprint


def test_times_of_every_type_give_the_same_order() -> None:
    order = np.random.default_rng(0).permutation(12)
    days = np.datetime64("2024-02-25") + order
    plain = made(events(t=order))
    stamps = pd.Series(days.astype("datetime64[ns]"))
    for values in (
        *(days.astype(f"datetime64[{unit}]") for unit in ("D", "s", "ms", "us", "ns")),
        days.tolist(),
        [datetime.datetime.combine(day, datetime.time(9)) for day in days.tolist()],
        [str(day) for day in days],
        order.astype(float),
        stamps,
        stamps.astype("datetime64[s]"),
        stamps.dt.tz_localize("Europe/Berlin"),
        pd.Series(days.tolist(), dtype=object),
        stamps.astype("string"),
    ):
        assert made(events(t=values)).fingerprint == plain.fingerprint
        frame = pd.DataFrame(events()).assign(t=values)
        assert made(frame).fingerprint == plain.fingerprint
    # At one time on the clock, but not at one time.
    zoned = pl.Series([datetime.datetime(2024, 1, 1, hour) for hour in range(12)]).dt.replace_time_zone("Asia/Tokyo")
    wanted = {"split": "timestamp", "valid_from": "2023-12-31T18:00", "test_from": "2023-12-31T22:00"}
    assert [len(rows) for rows in made(events(t=zoned), **wanted).split_rows.values()] == [2, 4, 5]


def test_pandas_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = pd.DataFrame(
        events(
            u=pd.Series([7, 7, None] * 4, dtype="Int64"),
            i=pd.Series(list("abcd") * 3, dtype="category"),
            t=pd.Series(pd.date_range("2024-01-01", periods=12, tz="Europe/Berlin")),
            n=["Café", None, "C", "D"] * 3,
        )
    )
    wanted = {"titles": "n", "missing_titles": "keep", "drop_incomplete": True, "duplicates": "keep"}
    expected = made(frame, **wanted)
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pyarrow" else find(name))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    found = made(frame, **wanted)
    assert found.fingerprint == expected.fingerprint
    assert found.item_titles == expected.item_titles == ["Café", None, "D", "C"]


def test_what_a_pandas_float_means_is_told() -> None:
    dataset = made(events(i=[10966.0, 2.0, 3.0, 4.0] * 2 + [10966.0, 2.0, np.nan, np.nan]), drop_incomplete=True)
    assert dataset.item_ids == ["10966", "2", "3", "4"]
    assert dataset.source["notes"] == ["column 'i' holds floats: 10966.0 is taken as the id 10966"]
    assert "dropped 2 rows without a user, an item or a time" in dataset.source["findings"]["suspicious"]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no such column": ({}, {"user": "U"}, "the frame: no column 'U'; the columns are 'u', 'i', 't' ('u' is not 'U'"),
    "fraction": ({"u": [1.5] + [1.0] * 11}, {}, "the frame: row 0: column 'u' is 1.5, not an id, which is text or"),
    "inexact": ({"u": [2.0**60] * 12}, {}, "not exact as a float64"),
    "bool": ({"u": [True, False] * 6}, {}, "column 'u' is of type Boolean; expected text or whole numbers"),
    "mixed": ({"u": [1, "a"] * 6}, {}, "the frame: column 'u' holds values of several kinds (int, str): make them of"),
    "missing": (
        {"u": [1, None, 3, None] * 3},
        {},
        "the frame: row 1: column 'u' has no value, nor has it in 5 further rows; drop_incomplete=True leaves such",
    ),
    "empty id": ({"i": ["a", ""] * 6}, {}, "the frame: row 1: column 'i' has no value"),
    "missing time": ({"t": [1, 2, 3, None] * 3}, {}, "the frame: row 3: column 't' has no value"),
    "no time": ({"t": ["x"] * 12}, {}, "the frame: row 0: column 't' is 'x', not a number or an ISO 8601 date"),
    "unused times": (
        {"when": [datetime.datetime(2020, 1, 1)] * 12},
        {"time": None},
        "column 'when' looks like times and is not used: time='when' orders the events by it, timestamps=False",
    ),
    "lengths": ({"i": ["a"]}, {}, "the frame: its columns are of different lengths: 'u' 12, 'i' 1, 't' 12"),
    "option": ({}, {"cores": 5}, "cores: no option of from_frame(user, item, time, rating, titles, split); further"),
    "of files": ({}, {"separator": ";"}, "separator: an option of files, not of a frame"),
    "role": ({}, {"user_column": "u"}, "user_column: called user here"),
    "given": ({}, {"split": "given"}, "the split 'given' needs 3 files"),
    "core": ({}, {"core": 9}, "removed: core 9: 3 of 3 users, 5 of 5 items, 12 of 12 interactions; the largest core"),
    "word": ({}, {"duplicates": "last"}, "unknown duplicates 'last'; known are keep, first, error"),
    "no title": ({"n": [None] * 12}, {"titles": "n"}, "the frame: no title for item 'i0' (the frame: row 0; 5 of 5"),
    "title type": ({}, {"titles": "t"}, "the frame: column 't' is of type Int64; expected text"),
    "titles column": ({}, {"titles": "nowhere"}, "the frame: no column 'nowhere'"),
    "titles": ({}, {"titles": 5}, "the titles: expected a table of pandas, polars or pyarrow, or a dict of columns"),
}  # fmt: skip


@pytest.mark.parametrize(("columns", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(columns: dict[str, Any], options: dict[str, Any], message: str) -> None:
    said = refused(events(**columns), **options)
    assert message in said
    assert "\n" not in said and "--" not in said


@pytest.mark.parametrize("frame", [[1, 2], "events.csv", None, np.zeros((3, 3)), 5])
def test_no_frame(frame: Any) -> None:
    assert refused(frame).startswith("the frame: expected a table of pandas, polars or pyarrow, or a dict of columns")


def test_no_rows() -> None:
    assert refused({"u": [], "i": [], "t": []}) == "the frame: the table has no rows"
    assert refused(pl.DataFrame(events()).clear()) == "the frame: the table has no rows"


def test_pandas_index_and_names() -> None:
    frame = pd.DataFrame(events())
    assert (
        refused(frame.set_index("u")) == "the frame: 'u' is its index, not a column: frame.reset_index() makes it one"
    )
    twice = pd.concat([frame, frame[["u"]]], axis=1)
    assert refused(twice).startswith("the frame: cannot be read: Expected unique column names")
    # Rows are told by position, whatever the index says.
    odd = frame.assign(u=frame["u"].where(frame.index != 4)).set_index(np.arange(12) + 100)
    assert refused(odd).startswith("the frame: row 4: column 'u' has no value; drop_incomplete=True")


def test_titles_of_every_kind(tmp_path: Path) -> None:
    titles = {f"i{n}": f"Title {n}" for n in range(5)}
    expected = list(titles.values())
    (tmp_path / "titles.csv").write_text("i,title\n" + "".join(f"{item},{title}\n" for item, title in titles.items()))
    columns = {"i": list(titles), "name": expected}
    assert made(events(), titles=titles).item_titles == expected
    assert made(events(), titles=columns).item_titles == expected
    assert made(events(), titles=pl.DataFrame({**columns, "x": 1}), title_column="name").item_titles == expected
    assert made(events(), titles=tmp_path / "titles.csv").item_titles == expected
    assert made(events(n=[f" Title {n % 5} " for n in range(12)]), titles="n").item_titles == expected
    numbers = made(events(i=[n % 5 for n in range(12)]), titles={n: f"Title {n}" for n in range(5)})
    assert numbers.item_titles == expected
    assert made(events(), titles={"i0": "A"}, missing_titles="keep").item_titles == ["A", None, None, None, None]
    assert made(events(), titles=pd.Series(titles)).item_titles == expected


def test_the_first_title_that_is_not_blank_counts() -> None:
    titles = ["", None, " ", "D", "E", "A", "B", "C", "no", "no", "no", "no"]
    assert made(events(n=titles), titles="n").item_titles == ["A", "B", "C", "D", "E"]


def test_two_columns_of_times() -> None:
    frame = events(t=[1] * 12, second=list(range(12))[::-1])
    first = made(frame, time=("t", "second"))
    assert first.fingerprint == made(events(t=list(range(12))[::-1])).fingerprint
    assert first.source["findings"]["order"].startswith("column 't' then 'second'; 0 %")


def test_a_column_without_use_may_be_of_any_type() -> None:
    frame = events(odd=[object()] * 12, vectors=[[0.5] * 3] * 12, mixed=[1, "a"] * 6)
    assert made(frame).fingerprint == made(events()).fingerprint
    assert made(frame).source["findings"]["not used"] == "odd, vectors, mixed (used: u, i, t)"


def test_lists_of_items() -> None:
    frame = {"u": [1, 2], "i": [["a", "b", "c"], ["b", "c", "d", "a"]], "t": [[1, 2, 3], [1, 2, 3, 4]]}
    assert made(frame).num_interactions == 7
    assert "a row holds a list of items" in refused({**frame, "n": ["x", "y"]}, titles="n")


def test_conditions_on_rows() -> None:
    frame = events(kind=["buy"] * 10 + ["view"] * 2)
    assert made(frame, where="kind=buy").num_interactions == 10


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": 0}, "user: got 0, expected the name of a column"),
        ({"item": ["i"]}, r"item: got \['i'\], expected the name of a column"),
        ({"time": 3}, "time: got 3, expected the name of a column"),
        ({"rating": 5}, "rating: got 5, expected the name of a column"),
        ({"user": "i"}, "user and item: both are column 'i'"),
        ({"core": "five"}, "core: got 'five', expected an integer, 1 or more"),
        ({"core": 2.0}, "core: got 2.0, expected an integer"),
        ({"core": True}, "core: got True, expected an integer"),
        ({"min_train_history": "a"}, "min_train_history: got 'a'"),
        ({"drop_incomplete": "yes"}, "drop_incomplete: got 'yes', expected true or false"),
        ({"timestamps": "no"}, "timestamps: got 'no', expected true or false"),
        ({"known_items": 3}, "known_items: got 3"),
        ({"where": 3}, "where: got 3, expected a text or several"),
        ({"titles": {"i0": 3}}, "the titles: 'i0' has the title 3, expected a text"),
        ({"titles": {}}, "the titles: no item has one"),
    ],
)
def test_wrong_names_and_options_are_told(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Dataset.from_frame(pd.DataFrame(events()), **{"user": "u", "item": "i", "time": "t", **columns})


def test_numbers_of_numpy_are_options(tmp_path: Path) -> None:
    dataset = made(events(), core=np.int64(1))
    dataset.save(tmp_path / "saved")
    assert Dataset.load(tmp_path / "saved").options["core"] == 1


def test_titles_may_be_missing_as_pandas_has_it() -> None:
    expected = [None, "B", "C", "D", "E"]
    for missing in (None, float("nan"), pd.NA):
        titles = {f"i{n}": missing if n == 0 else "ABCDE"[n] for n in range(5)}
        for given in (titles, pd.Series(titles), pd.Series(titles, dtype=object)):
            assert made(events(), titles=given, missing_titles="keep").item_titles == expected
    columns = events(n=[float("nan"), *"BCDEABCDEAB"])
    assert made(columns, titles="n", missing_titles="keep").item_titles == ["A", *"BCDE"]

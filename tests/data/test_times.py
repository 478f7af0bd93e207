"""Times as public files write them: read, or refused with what to say; none is read wrongly in silence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data import SequenceDataset, prepare
from rearec.data.tables.times import looks_like_times, parse_dates
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

# Four moments in order, a to d: the year turns, the hour of noon is among them.
MOMENTS = [
    datetime(2018, 9, 20, 9, 5, 58),
    datetime(2018, 9, 20, 12, 30, 0),
    datetime(2018, 12, 31, 23, 59, 59),
    datetime(2019, 1, 1, 0, 0, 0),
]


def table(times: Sequence[Any], column: str = "timestamp") -> str:
    """A csv whose rows are not in order: d, b, a, c of two users."""
    rows = [f'{user},{"abcd"[index]},"{times[index]}"' for user in "uv" for index in (3, 1, 0, 2)]
    return f"user_id,item_id,{column}\n" + "\n".join(rows) + "\n"


def order(dataset: SequenceDataset) -> str:
    return "".join(dataset.item_ids[item] for item in dataset.sequence(0))


UNASKED = {
    "iso": "%Y-%m-%dT%H:%M:%S",
    "iso Z": "%Y-%m-%dT%H:%M:%SZ",
    "iso z": "%Y-%m-%dT%H:%M:%Sz",
    "small t": "%Y-%m-%dt%H:%M:%Sz",
    "milliseconds": "%Y-%m-%dT%H:%M:%S.000Z",
    "comma": "%Y-%m-%d %H:%M:%S,000",
    "UTC": "%Y-%m-%d %H:%M:%S UTC",
    "GMT": "%Y-%m-%d %H:%M:%S GMT",
    "zone": "%Y-%m-%d %H:%M:%S+00:00",
    "zone without colon": "%Y-%m-%d %H:%M:%S +0000",
    "short zone": "%Y-%m-%d %H:%M:%S+00",
    "minutes": "%Y-%m-%d %H:%M",
    "slashes": "%Y/%m/%d %H:%M:%S",
    "mail": "%a, %d %b %Y %H:%M:%S +0000",
    "mail GMT": "%a, %d %b %Y %H:%M:%S GMT",
    "asctime with zone": "%a %b %d %H:%M:%S +0000 %Y",
}


@pytest.mark.parametrize("form", UNASKED.values(), ids=UNASKED.keys())
def test_forms_that_say_what_they_mean_are_read_unasked(form: str, write: Write, tmp_path: Path) -> None:
    path = write("t.csv", table([moment.strftime(form) for moment in MOMENTS]))
    assert order(prepare("table", [path], tmp_path / "o")) == "abcd"


@settings(max_examples=100, deadline=None)
@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1)), st.integers(-14 * 60, 14 * 60))
def test_dates_are_those_of_the_standard_library(moment: datetime, offset: int) -> None:
    moment = moment.replace(microsecond=0, tzinfo=timezone(timedelta(minutes=offset)))
    expected = moment.astimezone(timezone.utc).replace(tzinfo=None)
    texts = [moment.isoformat(), moment.isoformat(" "), format_datetime(moment)]
    assert parse_dates(pl.Series(texts)).to_list() == [expected] * 3


ASKED = {
    "%m/%d/%Y %I:%M:%S %p": lambda moment: moment.strftime("%-m/%-d/%Y %-I:%M:%S %p"),
    "%d/%m/%Y %H:%M:%S": None,
    "%m %d, %Y": lambda moment: moment.strftime("%m %-d, %Y"),
    "%d.%m.%Y %H:%M": None,
    "%b %d, %Y": None,
    "%Y%m%d%H%M%S": None,
    "%d-%m-%Y %H:%M:%S": None,
    "%s": None,
}


@pytest.mark.parametrize("form", ASKED)
def test_other_forms_are_read_when_they_are_told(form: str, write: Write, tmp_path: Path) -> None:
    writer = ASKED[form] or (lambda moment: moment.strftime(form))
    days = "%H" not in form and "%I" not in form and form != "%s"
    moments = [moment + timedelta(days=index) for index, moment in enumerate(MOMENTS)] if days else MOMENTS
    path = write("t.csv", table([writer(moment) for moment in moments]))
    assert order(prepare("table", [path], tmp_path / "o", time_format=form)) == "abcd"


REFUSED = {
    "day or month": ["01/02/2019", "02/01/2019", "03/04/2019", "05/06/2019"],
    "amazon": ["09 13, 2009", "10 1, 2009", "12 31, 2009", "01 3, 2010"],
    "mind": ["11/11/2019 9:05:58 AM", "11/11/2019 12:09:21 PM", "11/12/2019 1:00:00 AM", "11/13/2019 6:11:30 PM"],
    "words": ["yesterday", "today", "now", "soon"],
}


@pytest.mark.parametrize(("values", "hint"), [(REFUSED["day or month"], "'%m/%d/%Y' or '%d/%m/%Y'"),
    (REFUSED["amazon"], "'%m %d, %Y'"), (REFUSED["mind"], "'%m/%d/%Y %I:%M:%S %p'"), (REFUSED["words"], "")],
    ids=list(REFUSED))  # fmt: skip
def test_forms_that_could_mean_two_things_are_refused_with_what_to_say(
    values: list[str], hint: str, write: Write
) -> None:
    path = write("t.csv", table(values))
    with pytest.raises(UserError) as caught:
        prepare("table", [path], path.parent / "o")
    expected = f"not a number or an ISO 8601 date{f'; --time-format {hint} reads it' if hint else ''}"
    assert str(caught.value) == f"{path}: row 2: column 'timestamp' is {values[3]!r}, {expected}"


DOUBTFUL = {
    "YYYYMMDD": ([20180920, 20180921, 20181231, 20190101], "looks like a date YYYYMMDD", "%Y%m%d"),
    "YYYYMM": ([201809, 201810, 201812, 201901], "looks like a date YYYYMM, ", "%Y%m"),
    "YYYYMMDDhhmmss": (
        [20180920090558, 20180920123000, 20181231235959, 20190101000000],
        "date YYYYMMDDhhmmss",
        "%Y%m%d%H%M%S",
    ),
    "YYYYMMDDhhmm": ([201809200905, 201809201230, 201812312359, 201901010000], "date YYYYMMDDhhmm,", "%Y%m%d%H%M"),
}


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(("values", "expected", "form"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_numbers_that_are_dates_are_refused_and_read_when_told(
    values: list[int], expected: str, form: str, ending: str, tmp_path: Path
) -> None:
    users, items = ["u"] * 4, ["d", "b", "a", "c"]
    frame = pl.DataFrame({"user_id": users, "item_id": items, "timestamp": [values[index] for index in (3, 1, 0, 2)]})
    path = tmp_path / f"t{ending}"
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[ending](path)
    with pytest.raises(UserError, match=expected) as caught:
        prepare("table", [path], tmp_path / "o")
    assert f"--time-format {form} reads it" in str(caught.value)
    assert order(prepare("table", [path], tmp_path / "o", time_format=form)) == "abcd"
    assert order(prepare("table", [path], tmp_path / "p", time_format="number")) == "abcd"


@pytest.mark.parametrize("factor", [10**3, 10**6, 10**9], ids=["ms", "us", "ns"])
@pytest.mark.parametrize("files", [1, 2])
def test_two_units_in_one_column_are_refused(factor: int, files: int, write: Write) -> None:
    seconds = [1_546_300_800 + 86_400 * day for day in range(6)]
    mixed = [seconds[day] * (factor if day > 3 else 1) for day in range(6)]
    rows = [f"u,i{day},{moment}\n" for day, moment in enumerate(mixed)]
    cut = 6 if files == 1 else 4
    paths = [write("a.csv", "user_id,item_id,timestamp\n" + "".join(rows[:cut]))]
    if files == 2:
        paths.append(write("b.csv", "user_id,item_id,timestamp\n" + "".join(rows[cut:])))
    with pytest.raises(UserError, match="is of another unit than the others") as caught:
        prepare("table", paths, paths[0].parent / "o")
    place = f"{paths[0]}: row 6" if files == 1 else f"{paths[1]}: row 2"
    assert str(caught.value).startswith(f"{place}: column 'timestamp' is {mixed[4]}:")


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3, 4],
        [0, 5, 1000, 2_000_000],
        [946_684_800, 1_262_304_000, 1_546_300_800, 1_700_000_000],
        [10, 200, 3000, 40_000],
        [881_250_949_000, 881_250_949_001, 1_000_000_000_000, 1_500_000_000_000],
        [20_181_231, 20_190_141, 20_190_142, 20_190_143],
    ],
    ids=["small", "relative", "decades", "growing", "milliseconds", "no such day"],
)
def test_numbers_that_count_are_taken_as_they_are(values: list[int], write: Write, tmp_path: Path) -> None:
    assert order(prepare("table", [write("t.csv", table(values))], tmp_path / "o")) == "abcd"


INEXACT = {
    "float nanoseconds": [f"15463008001234567{digits}" for digits in ("88.0", "89.0", "90.5", "91.0")],
    "exponent": [f"1.546300800123456{digit}e18" for digit in range(6, 10)],
    "beyond int64": [f"1844674407370955161{digit}" for digit in range(2, 6)],
    "many digits": [f"1546300800.1234567891{digit}" for digit in range(1, 5)],
}


@pytest.mark.parametrize("values", INEXACT.values(), ids=INEXACT.keys())
def test_numbers_that_a_float_cannot_hold_are_refused(values: list[str], write: Write) -> None:
    path = write("t.csv", table(values))
    with pytest.raises(UserError, match="not exact as a float64"):
        prepare("table", [path], path.parent / "o")


def test_floats_of_parquet_that_were_more_exact_once_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 3, "item_id": ["a", "b", "c"], "timestamp": [1.5e18, 1.5e18, 1.6e18]})
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(UserError, match="not exact as a float64"):
        prepare("table", [tmp_path / "t.parquet"], tmp_path / "o")


def test_the_second_column_orders_what_is_equal_in_the_first(write: Write, tmp_path: Path) -> None:
    days = ["2016-05-09", "2016-05-09", "2016-05-09", "2016-05-10"]
    text = "user_id,item_id,eventdate,timeframe\n" + "".join(
        f"u,{'abcd'[index]},{days[index]},{[100, 90_000, 100_000, 5][index]}\n" for index in (3, 1, 0, 2)
    )
    dataset = prepare("table", [write("t.csv", text)], tmp_path / "o", timestamp_column="eventdate,timeframe")
    assert order(dataset) == "abcd"
    assert dataset.source["findings"]["order"].startswith("column 'eventdate' then 'timeframe'; 0 % of neighbouring")


def test_a_time_of_day_is_added_to_its_date(write: Write, tmp_path: Path) -> None:
    clock = ["9:05", "12:30", "23:59", "0:00"]
    text = "user_id,item_id,day,clock\nu,x,2018-09-19,1:00\nu,y,2018-09-19,2:00\n" + "".join(
        f"u,{'abcd'[index]},{MOMENTS[index]:%Y-%m-%d},{clock[index]}\n" for index in (3, 1, 0, 2)
    )
    options = {"timestamp_column": "day,clock", "split": "timestamp", "valid_from": "2018-09-20T12:00:00"}
    dataset = prepare("table", [write("t.csv", text)], tmp_path / "o", test_from="2018-12-31T12:00:00", **options)
    assert order(dataset) == "xyabcd"
    assert [len(dataset.rows(split)) for split in ("train", "valid", "test")] == [2, 1, 2]


def test_a_column_whose_name_has_a_comma_is_one_column(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["u"] * 4, "item_id": list("abcd"), "a,b": [4, 3, 2, 1]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert order(prepare("table", [tmp_path / "t.parquet"], tmp_path / "o", timestamp_column="a,b")) == "dcba"


LOOKS = {
    "time": ([1004, 1001], True),
    "Timestamp": (["5", "6"], True),
    "eventTime": (["2019-01-01", "2019-01-02"], True),
    "review_date": (["09 13, 2009", "10 1, 2009"], True),
    "created_at": ([1.5e9, 1.6e9], True),
    "foo": (["2019-01-01 10:00:00 UTC", "2019-01-02 10:00:00 UTC"], True),
    "bar": ([1_546_300_800, 1_546_300_801], True),
    "millis": ([1_546_300_800_000, 1_546_300_801_000], True),
    "session_id": ([1_546_300_800, 1_546_300_801], False),
    "watch_time": ([12.5, 3.0], False),
    "sentiment": ([0.5, 0.1], False),
    "category": (["a", "b"], False),
    "price": ([5, 7], False),
    "label": ([0, 1], False),
    "update_text": (["x", "y"], False),
}


@pytest.mark.parametrize("name", LOOKS)
def test_columns_that_look_like_times(name: str) -> None:
    values, expected = LOOKS[name]
    assert looks_like_times(name, pl.Series(values)) is expected
    assert looks_like_times(name, pl.Series([str(value) for value in values])) is expected


@pytest.mark.parametrize("format", ["table", "recbole"])
def test_unused_times_are_refused_unless_told_otherwise(format: str, write: Write, tmp_path: Path) -> None:
    header = {"table": "user_id,item_id,time", "recbole": "user_id:token\titem_id:token\ttime:float"}[format]
    separator = "," if format == "table" else "\t"
    rows = "".join(separator.join(("u", "dbac"[place], str(1000 + [3, 1, 0, 2][place]))) + "\n" for place in range(4))
    path = write("t.csv" if format == "table" else "t.inter", f"{header}\n{rows}")
    with pytest.raises(UserError) as caught:
        prepare(format, [path], tmp_path / "o")
    assert str(caught.value) == (
        f"{path}: column 'time' looks like times and is not used: --timestamp-column time orders the events by it, "
        "--no-timestamps takes the order of the file"
    )
    assert order(prepare(format, [path], tmp_path / "o", timestamp_column="time")) == "abcd"
    dataset = prepare(format, [path], tmp_path / "p", timestamps=False)
    assert order(dataset) == "dbac"
    assert dataset.source["findings"]["order"] == "no timestamp column: that of the rows of the file is taken"
    assert dataset.source["findings"]["not used"] == "time (used: user_id, item_id)"


@pytest.mark.parametrize("form", ["%Q", "soon", "%"])
def test_a_format_that_is_none_is_refused(form: str, write: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--time-format"):
        prepare("table", [write("t.csv", table(["2019", "2018", "2017", "2016"]))], tmp_path / "o", time_format=form)


def test_sorting_uses_every_key(write: Write, tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    first, second = generator.integers(0, 5, 60), generator.integers(0, 5, 60)
    text = "user_id,item_id,a,b\n" + "".join(f"u,i{row},{first[row]},{second[row]}\n" for row in range(60))
    dataset = prepare("table", [write("t.csv", text)], tmp_path / "o", timestamp_column="a,b")
    expected = sorted(range(60), key=lambda row: (first[row], second[row], row))
    assert [dataset.item_ids[item] for item in dataset.sequence(0)] == [f"i{row}" for row in expected]

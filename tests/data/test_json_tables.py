"""Tables from json: lines, arrays, Python's literals, lists, numbers that are no ids, and other forms of json files."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rearec.data.tables import json_lines
from rearec.data.tables.files import line_blocks
from rearec.data.tables.json_lines import read_json_lines, stream_json_lines
from rearec.data.tables.layout import Layout
from rearec.data.tables.table_files import read_table
from rearec.errors import UserError

Write = Callable[[str, "str | bytes"], Path]

IDS = ("user", "item")
RECORDS = [{"user": f"u{n}", "item": 97 + n, "time": 0.5 + n, "note": {"a": [n]}} for n in range(7)]
CELLS = [(f"u{n}", str(97 + n), str(0.5 + n)) for n in range(7)]
COLUMNS = ["user", "item", "time"]


def fault(path: Path, columns: list[str] = COLUMNS) -> str:
    """What is wrong, without the path."""
    with pytest.raises(UserError) as caught:
        read_table(path, columns, ids=IDS)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.fixture(params=[1 << 24, 20], ids=["one block", "small blocks"], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are read in blocks of this size."""
    monkeypatch.setattr(json_lines, "line_blocks", functools.partial(line_blocks, size=request.param))


FORMS: dict[str, tuple[str, list[int]]] = {
    "lines": ("\n".join(map(json.dumps, RECORDS)), [1, 2, 3, 4, 5, 6, 7]),
    "blank lines": ("\n\n" + "\n\n".join(map(json.dumps, RECORDS)) + "\n", [3, 5, 7, 9, 11, 13, 15]),
    "literals": ("\r\n".join(map(repr, RECORDS)), [1, 2, 3, 4, 5, 6, 7]),
    "literals of Python 2": (
        "\n".join(repr(record).replace("'user'", "u'user'").replace(": 'u", ": u'u") for record in RECORDS),
        [1, 2, 3, 4, 5, 6, 7],
    ),
    "both": ("\n".join([*map(json.dumps, RECORDS[:3]), *map(repr, RECORDS[3:])]), [1, 2, 3, 4, 5, 6, 7]),
    "array": (json.dumps(RECORDS), [1, 2, 3, 4, 5, 6, 7]),
    "array of lines": ("[\n" + ",\n".join(map(json.dumps, RECORDS)) + "\n]\n", [2, 3, 4, 5, 6, 7, 8]),
    "indented array": ("\n" + json.dumps(RECORDS, indent=1), [3 + 10 * n for n in range(7)]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_table(form: str, write: Write) -> None:
    text, rows = FORMS[form]
    table = read_table(write("t.json", text), COLUMNS, ids=IDS)
    assert table.frame.rows() == CELLS
    assert table.rows.tolist() == rows
    assert table.names == ("user", "item", "time", "note") and table.sample.columns == list(table.names)
    assert table.sample["note"].to_list() == [f'{{"a": [{n}]}}' for n in range(7)]


def test_encodings_hold_for_json(write: Write) -> None:
    path = write("t.jsonl", '{"user": "é"}\n'.encode("latin-1"))
    assert read_table(path, ["user"], Layout(encoding="latin-1")).frame.rows() == [("é",)]
    assert fault(path).startswith("row 1: not UTF-8 text")


@pytest.mark.parametrize("value", ["97.0", "97.5", "1e3", "-0.0", "1E2"])
@pytest.mark.parametrize("form", ["{}\n{}", "[{},\n{}]"])
def test_numbers_with_a_fraction_are_no_ids(value: str, form: str, write: Write) -> None:
    good = '{"user": "u", "item": "97.0", "time": 1.5}'
    path = write("t.json", form.replace("{}", "%s") % (good, good.replace('"97.0"', value)))
    assert fault(path) == f"row 2: column 'item' is the number {float(value)}; expected text or a whole number"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null", "1e999"])
def test_what_is_no_number_is_no_value(value: str, write: Write) -> None:
    line = '{"user": "u", "item": %s, "time": %s}\n'
    table = read_table(write("t.jsonl", line % ("5", "6") + line % (value, value)), COLUMNS, ids=IDS)
    assert table.frame.rows() == [("u", "5", "6"), ("u", None, None)]
    with pytest.raises(UserError, match="row 2: column 'item' has no value"):
        table.tokens("item")


def test_lists_stay_lists(write: Write) -> None:
    lines = [
        {"user": "u", "item": [5, "6", None], "time": []},
        {"user": "v", "item": None, "time": [1.5]},
        {"user": "w"},
    ]
    table = read_table(write("t.jsonl", "\n".join(map(json.dumps, lines))), COLUMNS, ids=IDS)
    assert table.frame.schema == {"user": pl.String, "item": pl.List(pl.String), "time": pl.List(pl.String)}
    assert table.frame.rows() == [("u", ["5", "6", None], []), ("v", None, ["1.5"]), ("w", None, None)]


LIST_FAULTS = {
    "no list": ('[{"item": [1]}, {"item": null}, {"item": "1"}]', "row 3: 'item' is no list, but in rows above it is"),
    "list": ('{"item": "1"}\n{"item": [1]}', "row 2: 'item' is a list, but in rows above it is otherwise"),
    "fraction": ('{"item": [1, 2.0]}', "row 1: column 'item' is the number 2.0; expected text or a whole number"),
    "flag": ('{"item": [true]}', "row 1: 'item' is a bool; expected text or a number"),
    "nested": ('{"item": [[1]]}', "row 1: 'item' is a list; expected text or a number"),
    "object": ('{"user": 1}\n{"item": [{"id": 1}]}', "row 2: 'item' is a dict; expected text or a number"),
    "half a pair": ('{"item": ["\\ud800"]}', "row 1: 'item' holds half of a surrogate pair"),
}


@pytest.mark.parametrize(("text", "message"), LIST_FAULTS.values(), ids=LIST_FAULTS)
def test_faults_of_lists(text: str, message: str, write: Write) -> None:
    assert fault(write("t.json", text)).startswith(message)


FRAME = {"user": {"0": "u", "1": "v"}, "item": {"0": 5, "1": 6}}
OTHER_FORMS = {
    "columns": (
        json.dumps(FRAME),
        "one json object as pandas writes it with orient='columns'; expected one json object per",
    ),
    "columns, indented": (json.dumps(FRAME, indent=2), "one json object as pandas writes it with orient='columns'; "),
    "index": ('{"0": {"user": "u"}, "1": {"user": "v"}}', "one json object as pandas writes it with orient='index'; "),
    "split": (
        '{"columns": ["user"], "index": [0], "data": [["u"]]}',
        "one json object as pandas writes it with orient='split'",
    ),
    "table": ('{"schema": {}, "data": [{"user": "u"}]}', "one json object as pandas writes it with orient='table'"),
    "within": (
        '{"count": 1, "results": [{"user": "u"}]}',
        "one json object with the rows in 'results'; expected one json",
    ),
    "users": ('{"u1": [1, 2], "u2": []}', "one json object {user: [items]}, which the format 'json' reads"),
    "one object": (
        '{\n "user": "u",\n "item": 5\n}',
        "one json object over several lines; expected one object per line",
    ),
    "values": ('[["u", 5]]', "row 1: expected a json object, got a list"),
    "lines of arrays": ('["u", 5]\n["v", 6]\n', "row 1: expected a json object, got a list"),
    "text behind": ('[{"user": "u"}]\n{}', "row 2: not json: there is text behind the array"),
    "no comma": (
        '[{"user": "u"}\n{"user": "v"}]',
        "row 2: not json: expected ',' or ']' behind an element of the array",
    ),
    "comma at the end": ('[{"user": "u"},\n]', "row 2: not json: Expecting value at character 1"),
    "cut": ('[{"user": "u"},\n{"us', "row 2: not json: Unterminated string starting at"),
    "cut behind a comma": ('[{"user": "u"},', "row 1: not json: Expecting value at character 16"),
    "cut behind an element": ('[{"user": "u"}', "row 1: not json: expected ',' or ']' behind an element"),
    "nested": ("[" * 100_000, "row 1: not json: nested too deeply"),
    "empty": ("[]", "the table has no rows"),
    "literal": ("{'user': open('x')}\n", "row 1: not json: Expecting property name"),
    "literal of a tuple": ("{'user': ('u',)}\n", "row 1: 'user' is a tuple; expected text or a number"),
    "literal of bytes": ("{'user': b'u'}\n", "row 1: 'user' is a bytes; expected text or a number"),
    "cut literal": ("{'user': 'u'}\n{'user': 'u", "row 2: not json: Expecting property name"),
    "deep literal": ("{'user': " + "[" * 10_000, "row 1: not json: Expecting property name"),
    "fraction in a literal": (
        "{'item': 9.0}",
        "row 1: column 'item' is the number 9.0; expected text or a whole number",
    ),
}


@pytest.mark.parametrize(("text", "message"), OTHER_FORMS.values(), ids=OTHER_FORMS)
def test_what_is_no_list_of_objects_is_named(text: str, message: str, write: Write) -> None:
    assert fault(write("t.json", text)).startswith(message)


TYPES = {"user": pl.String(), "item": pl.String(), "time": pl.Float64()}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("97.0", "column 'item' is the number 97.0; expected text or a whole number"),
        ("true", "'item' is a bool; expected text or a number"),
        ('["a"]', "'item' is a list; expected text or a number"),
        ('{"a": 1}', "'item' is a dict; expected text or a number"),
        ('"\\ud800"', "'item' holds half of a surrogate pair, which is no text"),
    ],
)
def test_streams_refuse_what_is_no_text(value: str, message: str, write: Write) -> None:
    good = '{"user": "u", "item": "a", "time": 1.5}\n'
    path = write("t.jsonl", good * 3 + good.replace('"a"', value) + good)
    with pytest.raises(UserError) as caught:
        list(stream_json_lines(path, TYPES, ids=IDS))
    assert str(caught.value) == f"{path}: row 4: {message}"


def test_streams_name_all_columns_and_have_a_sample(write: Write) -> None:
    lines = [{"user": "u", "item": "a", "time": n, "text": f"t{n}"} for n in range(4)]
    tables = list(stream_json_lines(write("t.jsonl", "\n".join(map(json.dumps, lines))), TYPES, ids=IDS))
    assert {table.names for table in tables} == {("user", "item", "time", "text")}
    assert all(table.sample["text"].to_list()[0] in ("t0", "t1", "t2", "t3") for table in tables)
    assert [row for table in tables for row in table.rows.tolist()] == [1, 2, 3, 4]


SCALARS = st.one_of(
    st.none(), st.integers(), st.floats(), st.text(max_size=4), st.sampled_from(["97.0", "true", "[1]", "null"])
)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.fixed_dictionaries({"user": SCALARS, "item": SCALARS, "time": SCALARS}), min_size=1, max_size=5))
def test_streams_and_tables_agree_with_the_values(tmp_path_factory: Any, records: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("json") / "t.jsonl"
    path.write_text("\n".join(map(json.dumps, records)), "utf-8")
    plain = not any(
        isinstance(record[name], float) and math.isfinite(record[name]) for record in records for name in IDS
    )

    def cell(value: Any) -> str | None:
        return None if value is None or (isinstance(value, float) and not math.isfinite(value)) else str(value)

    expected = [tuple(cell(record[name]) for name in COLUMNS) for record in records]
    try:
        table = read_json_lines(path, COLUMNS, IDS)
        streamed = list(stream_json_lines(path, TYPES, ids=IDS))
    except UserError:
        assert not plain
        return
    assert plain and table.frame.rows() == expected
    cells = [tuple(map(cell, row)) for part in streamed for row in part.frame.rows()]
    assert [row[:2] for row in cells] == [row[:2] for row in expected]
    assert [row[2] and float(row[2]) for row in cells if is_number(row[2])] == [
        float(row[2]) for row in expected if is_number(row[2])
    ]


def is_number(text: str | None) -> bool:
    """Whether float takes it."""
    try:
        return text is not None and float(text) is not None
    except ValueError:
        return False

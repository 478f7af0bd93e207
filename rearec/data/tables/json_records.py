"""Objects of a json file put together as the columns of a table; what is no list of objects is named."""

from __future__ import annotations

import json
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import polars as pl

from rearec.data.tables.json_text import is_broken_text
from rearec.data.tables.table import SAMPLE_ROWS, Table
from rearec.errors import UserError

__all__ = ["RecordsBuilder", "array_elements", "refuse_single_object"]

RECORDS = "expected one json object per line, or one array of objects (pandas: orient='records')"
WHITE = " \t\r\n"


class RecordsBuilder:
    """A table from objects, one after the other.

    Args:
        columns: those to keep.
        ids: columns that hold text or whole numbers.
        lists: a column may hold a list in every row.
        flags: columns that may hold true and false.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], ids: Container[str], lists: bool, flags: Container[str] = ()
    ) -> None:
        self.path = path
        self.ids = ids
        self.lists = lists
        self.flags = flags
        self.rows: list[int] = []
        # A column exists if any object has it; json null is a value that is missing.
        self.names: dict[str, None] = {}
        self._values: dict[str, list[Any]] = {name: [] for name in columns}
        self._has_lists: dict[str, bool] = {}
        self._first: list[dict[str, Any]] = []

    def add(self, row: int, fields: Any) -> None:
        """Add the object in the row.

        Raises:
            UserError: it is no object, or the value of a column is a flag, an object, half a surrogate pair, a list
                where others are none, or the number with a fraction of an id.
        """
        if not isinstance(fields, dict):
            self._fail(row, f"expected a json object, got a {type(fields).__name__}")
        if len(self._first) < SAMPLE_ROWS:
            self._first.append(fields)
        self.rows.append(row)
        self.names.update(dict.fromkeys(fields))
        for name, values in self._values.items():
            values.append(self._value(row, name, fields.get(name)))

    def table(self) -> Table:
        """The table, of no rows perhaps.

        Raises:
            UserError: the only object holds the rows of a table in another form.
        """
        if self.lists and len(self.rows) == 1:
            refuse_single_object(self.path, self._first[0], self._values)
        frame = {
            name: pl.Series(name, values, dtype=pl.List(pl.String) if self._has_lists.get(name) else pl.String)
            for name, values in self._values.items()
            if name in self.names
        }
        sample = {name: [_as_text(fields.get(name)) for fields in self._first] for name in self.names}
        return Table(
            self.path,
            pl.DataFrame(frame),
            np.asarray(self.rows, dtype=np.int64),
            tuple(self.names),
            pl.DataFrame(sample, schema=dict.fromkeys(sample, pl.String)),
        )

    def _value(self, row: int, name: str, value: Any) -> Any:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        is_list = isinstance(value, list) and self.lists
        if is_list != self._has_lists.setdefault(name, is_list):
            self._fail(row, f"{name!r} is {'a list' if is_list else 'no list'}, but in rows above it is otherwise")
        return [self._scalar(row, name, part) for part in value] if is_list else self._scalar(row, name, value)

    def _scalar(self, row: int, name: str, value: Any) -> str | None:
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            return None
        if isinstance(value, bool) and name in self.flags:
            return str(value).lower()
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            if self.lists and len(self.rows) == 1:
                refuse_single_object(self.path, self._first[0], self._values)
            self._fail(row, f"{name!r} is a {type(value).__name__}; expected text or a number")
        if isinstance(value, float) and name in self.ids:
            self._fail(row, f"column {name!r} is the number {value}; expected text or a whole number")
        text = str(value)
        if is_broken_text(text):
            self._fail(row, f"{name!r} holds half of a surrogate pair, which is no text")
        return text

    def _fail(self, row: int, message: str) -> NoReturn:
        raise UserError(f"{self.path}: row {row}: {message}")


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        text = value
    elif isinstance(value, (bool, list, dict)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return None if text is None else text.encode("utf-8", "replace").decode("utf-8")


def array_elements(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """(row, element) of a json array; the row is the line, or the element's number where all stand in one line.

    Raises:
        UserError: the text is no json array; names the line.
    """
    elements: list[Any] = []
    lines: list[int] = []
    decode = json.JSONDecoder().raw_decode
    at, line, counted = text.index("[") + 1, 1, 0

    def fail(message: str, place: int) -> NoReturn:
        raise UserError(f"{path}: row {text.count(chr(10), 0, place) + 1}: not json: {message}")

    while True:
        at = _skip_white(text, at)
        if text.startswith("]", at) and not elements:
            break
        line, counted = line + text.count("\n", counted, at), at
        try:
            element, at = decode(text, at)
        except json.JSONDecodeError as error:
            fail(f"{error.msg} at character {error.colno}", error.pos)
        except RecursionError:
            fail("nested too deeply", at)
        except ValueError as error:
            fail(f"a number that cannot be read: {error}", at)
        elements.append(element)
        lines.append(line)
        at = _skip_white(text, at)
        if text.startswith("]", at):
            break
        if not text.startswith(",", at):
            fail("expected ',' or ']' behind an element of the array", min(at, len(text) - 1))
        at += 1
    behind = _skip_white(text, at + 1)
    if behind < len(text):
        if elements and not isinstance(elements[0], dict):
            raise UserError(f"{path}: row {lines[0]}: expected a json object, got a list")
        fail("there is text behind the array", behind)
    rows = lines if len(set(lines)) == len(lines) else range(1, len(lines) + 1)
    return zip(rows, elements, strict=True)


def _skip_white(text: str, at: int) -> int:
    while at < len(text) and text[at] in WHITE:
        at += 1
    return at


def _is_typed(value: Mapping[str, Any]) -> bool:
    """Whether an object is a value with its type, as MongoDB writes it: {"$oid": "5f"}."""
    return any(key.startswith("$") for key in value)


def refuse_single_object(path: Path, value: Mapping[str, Any], columns: Container[str]) -> None:
    """UserError where a file's only object holds many rows: in another form that pandas writes, or lists per user."""
    keys = set(value)
    parts = list(value.values())
    objects = bool(parts) and all(isinstance(part, dict) for part in parts)
    orient = None
    if {"columns", "data"} <= keys:
        orient = "split"
    elif {"schema", "data"} <= keys:
        orient = "table"
    elif objects and any(name in columns for name in keys) and not any(_is_typed(part) for part in parts):
        orient = "columns"
    elif objects and any(name in columns for part in parts for name in part):
        orient = "index"
    if orient is not None:
        raise UserError(f"{path}: one json object as pandas writes it with orient={orient!r}; {RECORDS}")
    if any(name in columns for name in keys):
        return
    filled = {name: part for name, part in value.items() if isinstance(part, list) and part}
    for name, part in filled.items():
        if isinstance(part[0], dict) and any(column in columns for column in part[0]):
            raise UserError(f"{path}: one json object with the rows in {name!r}; {RECORDS}")
    if filled and all(isinstance(part, list) for part in parts):
        raise UserError(f"{path}: one json object {{user: [items]}}, which the format 'json' reads; {RECORDS}")

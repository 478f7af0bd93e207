"""Tables by column names: csv, tsv, parquet and json lines, every value checked where it is used."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.files import check_utf8, extension, read_bytes, read_lines
from rearec.data.json_text import is_broken_text, parse_json
from rearec.data.times import Times, parse_dates
from rearec.errors import UserError

__all__ = ["Table", "read_delimited", "read_json_lines", "read_parquet", "read_table"]

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}
JSON_LINES = (".jsonl", ".ndjson", ".json")
PARQUET = (".parquet", ".pq")
# Above this a float32 no longer holds every whole number.
FLOAT32_WHOLE = 2**24
FLOAT64_WHOLE = 2**53


@dataclass(frozen=True)
class Table:
    """A table as read.

    Attributes:
        path: the file.
        frame: its columns, as text, or typed if from parquet.
        rows: int64, the row of the file of each row of ``frame``.
        names: all columns of the file, where ``frame`` has some only.
    """

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.int64]
    names: tuple[str, ...] = ()

    def has(self, column: str) -> bool:
        """Whether the table has the column."""
        return column in self.frame.columns

    def column(self, column: str) -> pl.Series:
        """The column as it was read.

        Raises:
            UserError: there is none of that name, or several.
        """
        if column not in self.frame.columns:
            names = ", ".join(repr(name) for name in self.names or self.frame.columns) or "(none)"
            raise UserError(f"{self.path}: no column {column!r}; the columns are {names}")
        if f"{column}_duplicated_0" in self.frame.columns:
            raise UserError(f"{self.path}: the column {column!r} occurs more than once")
        return self.frame[column]

    def tokens(self, column: str) -> pl.Series:
        """The column as strings, none of them null or empty.

        Raises:
            UserError: the column is missing, is not of text or whole numbers, or a value is missing.
        """
        values = self.column(column)
        text = values.dtype in (pl.String, pl.Categorical) or isinstance(values.dtype, pl.Enum)
        if not text and not values.dtype.is_integer():
            self._fail_type(column, values.dtype, "text or whole numbers")
        values = values.cast(pl.String)
        self._check_rows(values.is_null() | (values == ""), f"column {column!r} has no value")
        return values

    def numbers(self, column: str) -> NDArray[np.float64]:
        """The column as float64, nan where there is no value.

        Raises:
            UserError: the column is missing or a value is not a number.
        """
        values = self.column(column)
        if values.dtype == pl.String:
            stripped = values.str.strip_chars()
            stripped = stripped.set(stripped == "", None)
            parsed = stripped.cast(pl.Float64, strict=False)
            self._check_values(parsed.is_null() & stripped.is_not_null(), column, values, "a number")
            values = parsed
        elif not values.dtype.is_numeric() and values.dtype != pl.Null:
            self._fail_type(column, values.dtype, "numbers")
        return values.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy()

    def times(self, column: str) -> Times:
        """The column as timestamps: whole numbers, numbers with a fraction, dates, or ISO 8601 text.

        Raises:
            UserError: the column is missing, a value is missing or no timestamp, or they are float32 and too large.
        """
        values = self.column(column)
        if values.dtype == pl.String:
            values = self._parse_times(column, values)
        elif not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
            self._fail_type(column, values.dtype, "numbers or dates")
        self._check_rows(values.is_null(), f"column {column!r} has no value")
        if values.dtype == pl.Date or isinstance(values.dtype, pl.Datetime):
            unit: Literal["us", "ns"] = "ns" if getattr(values.dtype, "time_unit", None) == "ns" else "us"
            return Times(values.dt.epoch(unit).to_numpy().copy(), unit)
        if values.dtype.is_integer():
            whole = values.cast(pl.Int64, strict=False)
            self._check_values(whole.is_null(), column, values, "a 64-bit integer")
            return Times(whole.to_numpy().copy(), "number")
        floats = values.cast(pl.Float64)
        self._check_values(~floats.is_finite(), column, values, "a finite number")
        if values.dtype == pl.Float32 and floats.abs().max() >= FLOAT32_WHOLE:
            raise UserError(f"{self.path}: column {column!r} is float32, too coarse for its timestamps: store int64")
        array = floats.to_numpy()
        if np.all((array == np.floor(array)) & (np.abs(array) <= FLOAT64_WHOLE)):
            return Times(array.astype(np.int64), "number")
        return Times(array.copy(), "number")

    def _parse_times(self, column: str, values: pl.Series) -> pl.Series:
        stripped = values.str.strip_chars()
        stripped = stripped.set(stripped == "", None)
        self._check_rows(stripped.is_null(), f"column {column!r} has no value")
        whole = stripped.cast(pl.Int64, strict=False)
        if not whole.has_nulls():
            return whole
        floats = stripped.cast(pl.Float64, strict=False)
        if not floats.has_nulls():
            return floats
        dates = parse_dates(stripped)
        expected = "a number" if floats[0] is not None else "a number or an ISO 8601 date"
        unread = floats.is_null() if floats[0] is not None else dates.is_null()
        self._check_values(unread, column, values, expected)
        return dates

    def _check_values(self, wrong: pl.Series, column: str, values: pl.Series, expected: str) -> None:
        if wrong.any():
            index = wrong.arg_max()
            assert index is not None
            place = f"{self.path}: row {self.rows[index]}"
            raise UserError(f"{place}: column {column!r} is {str(values[index])[:40]!r}, not {expected}")

    def _check_rows(self, wrong: pl.Series, message: str) -> None:
        if wrong.any():
            index = wrong.arg_max()
            assert index is not None
            raise UserError(f"{self.path}: row {self.rows[index]}: {message}")

    def _fail_type(self, column: str, dtype: pl.DataType, expected: str) -> None:
        raise UserError(f"{self.path}: column {column!r} is of type {dtype}; expected {expected}")


def read_table(path: Path, columns: Sequence[str], separator: str | None = None) -> Table:
    """A table, its kind told by the extension (before ``.gz``): csv, tsv, txt, parquet or json lines.

    Args:
        columns: the columns that may be used; json lines are read for these only.
        separator: of a text table; None for the extension's own (a comma for csv, a tab otherwise).

    Raises:
        UserError: the file cannot be read, or has an unknown extension and no ``separator`` is given.
    """
    kind = extension(path)
    if kind in PARQUET:
        return read_parquet(path)
    if kind in JSON_LINES:
        return read_json_lines(path, columns)
    if separator is None and kind not in SEPARATORS:
        known = ", ".join([*SEPARATORS, *PARQUET, *JSON_LINES])
        raise UserError(f"{path}: unknown kind of table {kind!r}; known are {known} (or give a separator)")
    return read_delimited(path, separator or SEPARATORS[kind])


def read_delimited(
    path: Path, separator: str, *, quoted: bool | None = None, default_header: Sequence[str] | None = None
) -> Table:
    """A text table; every column is read as text.

    Args:
        separator: one character.
        quoted: whether a field may stand in double quotes; None: yes, unless the separator is a tab.
        default_header: the column names of a file whose first row is no header (it lacks the first of these names);
            the last of them may be missing.

    Raises:
        UserError: the file cannot be read or has no rows, or a row has more fields than the header.
    """
    data = read_bytes(path)
    check_utf8(path, data)
    quote = '"' if quoted or (quoted is None and separator != "\t") else None
    first = data.split(b"\n", 1)[0].decode("utf-8").strip("\r").split(separator)
    has_header = default_header is None or default_header[0] in [name.strip(quote or "") for name in first]
    try:
        frame = pl.read_csv(
            io.BytesIO(data),
            separator=separator,
            quote_char=quote,
            has_header=has_header,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: {_locate_csv_fault(data, separator, quote, str(error))}") from None
    if default_header is not None and not has_header:
        if not len(default_header) - 1 <= frame.width <= len(default_header):
            wanted = ",".join(default_header)
            raise UserError(f"{path}: row 1: {frame.width} fields; expected {wanted} (the last may be missing)")
        frame.columns = list(default_header[: frame.width])
    rows = np.arange(frame.height) + (2 if has_header else 1)
    filled = frame.select(~pl.all_horizontal(pl.all().is_null())).to_series()
    if not filled.all():
        frame, rows = frame.filter(filled), rows[filled.to_numpy()]
    return _filled(path, frame, rows)


def _locate_csv_fault(data: bytes, separator: str, quote: str | None, message: str) -> str:
    text = io.StringIO(data.decode("utf-8"), newline="")
    quoting: Any = {"quoting": csv.QUOTE_NONE} if quote is None else {"quotechar": quote}
    reader = csv.reader(text, delimiter=separator, strict=True, **quoting)
    width = None
    try:
        for row, fields in enumerate(reader, start=1):
            width = width or len(fields)
            if len(fields) > width:
                return f"row {row}: {len(fields)} fields, but the first row has {width}"
    except csv.Error as error:
        return f"row {reader.line_num}: cannot be parsed as a table: {error}"
    return f"cannot be parsed as a table: {message.splitlines()[0]}"


def read_json_lines(path: Path, columns: Sequence[str]) -> Table:
    """One json object per line; of its fields only ``columns`` are kept, as text; blank lines are skipped.

    Raises:
        UserError: the file cannot be read, a line is no json object, or a value is a flag, a list or an object.
    """
    wanted = list(dict.fromkeys(columns))
    values: dict[str, list[str | None]] = {name: [] for name in wanted}
    # A column exists if any object has it; json null is a value that is missing.
    names: dict[str, None] = {}
    rows: list[int] = []
    for row, line in enumerate(read_lines(path), start=1):
        if not line or line.isspace():
            continue
        fields = _parse_json_line(path, row, line)
        rows.append(row)
        names.update(dict.fromkeys(fields))
        for name in wanted:
            values[name].append(_json_text(path, row, name, fields.get(name)))
    text = {name: pl.Series(name, values[name], dtype=pl.String) for name in wanted if name in names}
    return _filled(path, pl.DataFrame(text), np.asarray(rows), tuple(names))


def _json_text(path: Path, row: int, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, (bool, list, dict)):
        raise UserError(f"{path}: row {row}: {name!r} is a {type(value).__name__}; expected text or a number")
    text = str(value)
    if is_broken_text(text):
        raise UserError(f"{path}: row {row}: {name!r} holds half of a surrogate pair, which is no text")
    return text


def _parse_json_line(path: Path, row: int, line: str) -> dict[str, Any]:
    value = parse_json(path, line, row)
    if not isinstance(value, dict):
        raise UserError(f"{path}: row {row}: expected a json object, got a {type(value).__name__}")
    return value


def read_parquet(path: Path) -> Table:
    """A parquet file, its columns typed.

    Raises:
        UserError: the file is no parquet file or has no rows.
    """
    try:
        frame = pl.read_parquet(io.BytesIO(read_bytes(path)))
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path}: not a parquet file: {str(error).splitlines()[0]}") from None
    return _filled(path, frame, np.arange(frame.height) + 1)


def _filled(path: Path, frame: pl.DataFrame, rows: NDArray[np.int64], names: tuple[str, ...] = ()) -> Table:
    if len(rows) == 0:
        raise UserError(f"{path}: the table has no rows")
    return Table(path, frame, rows, names)

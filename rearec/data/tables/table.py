"""A table as it was read from a file: every value is checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.hints import header_hint
from rearec.data.tables.times import Times, parse_dates
from rearec.errors import UserError

__all__ = ["SAMPLE_ROWS", "Table", "filled_table"]

SAMPLE_ROWS = 1000
# Above this a float32 no longer holds every whole number.
FLOAT32_WHOLE = 2**24
FLOAT64_WHOLE = 2**53


@dataclass(frozen=True)
class Table:
    """A table as read.

    Attributes:
        path: the file.
        frame: the wanted columns that the file has, as text, or typed if from parquet.
        rows: int64, where each row of ``frame`` stands in the file: of text the line in which it begins, from 1.
        names: all columns of the file.
        sample: the first rows of all columns, up to `SAMPLE_ROWS`; of parquet without vectors that are not wanted.
    """

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.int64]
    names: tuple[str, ...] = ()
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)

    def has(self, column: str) -> bool:
        """Whether the table has the column."""
        return column in self.frame.columns

    def column(self, column: str) -> pl.Series:
        """The column as it was read.

        Raises:
            UserError: there is none of that name, or several.
        """
        if column not in self.frame.columns:
            names = self.names or tuple(self.frame.columns)
            known = ", ".join(map(repr, names)) or "(none)"
            raise UserError(f"{self.path}: no column {column!r}; the columns are {known}{header_hint(names)}")
        if self.names.count(column) > 1:
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


def filled_table(
    path: Path, frame: pl.DataFrame, rows: NDArray[np.int64], names: tuple[str, ...], sample: pl.DataFrame
) -> Table:
    """The table; UserError where it has no rows."""
    if len(rows) == 0:
        raise UserError(f"{path}: the table has no rows")
    return Table(path, frame, rows, names, sample)

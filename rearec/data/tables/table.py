"""A table as it was read from a file: every value is checked where it is used."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.tables.hints import header_hint, near_hint
from rearec.data.tables.times import FLOAT64_DIGITS, FLOAT64_WHOLE, NO_DATES, Times, parse_times
from rearec.errors import UserError

__all__ = ["SAMPLE_ROWS", "STORE_WHOLE", "MissingValue", "Table", "filled_table"]

SAMPLE_ROWS = 1000
# Above this a float32 no longer holds every whole number.
FLOAT32_WHOLE = 2**24
STORE_WHOLE = "store whole numbers, or fewer digits"


class MissingValue(UserError):
    """A row has no value in a column that needs one."""


@dataclass(frozen=True)
class Table:
    """A table as read.

    Attributes:
        path: the file; of a frame in memory what messages call it.
        frame: the wanted columns that the file has, as text, or typed if from parquet or memory.
        rows: int64, where each row of ``frame`` stands in the file: of text the line in which it begins, from 1. Of a
            frame in memory its position, from 0.
        names: all columns of the file.
        sample: the first rows of all columns, up to `SAMPLE_ROWS`; of parquet without vectors that are not wanted.
    """

    path: Path
    frame: pl.DataFrame
    rows: NDArray[np.int64]
    names: tuple[str, ...] = ()
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)

    def take(self, kept: pl.Series) -> Table:
        """The table with the rows for which ``kept`` is true."""
        return replace(self, frame=self.frame.filter(kept), rows=self.rows[kept.to_numpy()])

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
            hint = near_hint(names, column) or header_hint(names)
            raise UserError(f"{self.path}: no column {column!r}; the columns are {known}{hint}")
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
        whole = values.dtype.is_integer() or (isinstance(values.dtype, pl.Decimal) and values.dtype.scale == 0)
        if not text and not whole:
            self._fail_type(column, values.dtype, "text or whole numbers")
        values = values.cast(pl.String)
        self._check_filled(values.is_null() | (values == ""), column)
        return values

    def titles(self, item_column: str, title_column: str) -> dict[str, str]:
        """The title of each item that has one: the first that is not blank, or else an empty one.

        Raises:
            UserError: a column is missing, an item has no value, or the titles are no text.
        """
        titles = self.column(title_column)
        if titles.dtype in (pl.Categorical, pl.Enum):
            titles = titles.cast(pl.String)
        if titles.dtype not in (pl.String, pl.Null):
            self._fail_type(title_column, titles.dtype, "text")
        given = pl.DataFrame({"item": self.tokens(item_column), "title": titles.cast(pl.String)}).drop_nulls("title")
        blank = given["title"].str.strip_chars() == ""
        first = (part.unique("item", keep="first").rows() for part in (given.filter(blank), given.filter(~blank)))
        return {item: title.strip() for part in first for item, title in part}

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

    def times(self, column: str, time_format: str | None = None) -> Times:
        """The column as timestamps: whole numbers, numbers with a fraction, dates, or text that holds one of these.

        Args:
            time_format: see `parse_times`; given, numbers are text of this form.

        Raises:
            UserError: the column is missing, a value is missing, no timestamp, or more exact than a float can be.
        """
        values = self.column(column)
        if time_format not in (None, NO_DATES) and values.dtype.is_integer():
            values = values.cast(pl.String)
        if values.dtype == pl.String:
            values = self._parse_times(column, values, time_format)
        elif not (values.dtype.is_numeric() or values.dtype in (pl.Date, pl.Datetime)):
            self._fail_type(column, values.dtype, "numbers or dates")
        self._check_filled(values.is_null(), column)
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
        self._check_values(floats.abs() > FLOAT64_WHOLE, column, values, f"exact as a float64 ({STORE_WHOLE})")
        array = floats.to_numpy()
        if np.all(array == np.floor(array)):
            return Times(array.astype(np.int64), "number")
        return Times(array.copy(), "number")

    def _parse_times(self, column: str, values: pl.Series, time_format: str | None) -> pl.Series:
        stripped = values.str.strip_chars()
        stripped = stripped.set(stripped == "", None)
        self._check_filled(stripped.is_null(), column)
        times, expected = parse_times(stripped, time_format)
        self._check_values(times.is_null(), column, values, expected)
        if times.dtype == pl.Float64:
            digits = stripped.str.replace(r"[eE].*$", "").str.replace_all(r"[^0-9]", "").str.strip_chars_start("0")
            digits = digits.str.strip_chars_end("0").str.len_chars()
            self._check_values(digits > FLOAT64_DIGITS, column, values, f"exact as a float64 ({STORE_WHOLE})")
        return times

    def _check_values(self, wrong: pl.Series, column: str, values: pl.Series, expected: str) -> None:
        if wrong.any():
            index = wrong.arg_max()
            assert index is not None
            place = f"{self.path}: row {self.rows[index]}"
            raise UserError(f"{place}: column {column!r} is {str(values[index])[:40]!r}, not {expected}")

    def _check_filled(self, wrong: pl.Series, column: str) -> None:
        if wrong.any():
            index = wrong.arg_max()
            assert index is not None
            further = int(wrong.sum()) - 1
            also = f", nor has it in {further:,} further row{'s' * (further > 1)}" if further else ""
            raise MissingValue(f"{self.path}: row {self.rows[index]}: column {column!r} has no value{also}")

    def _fail_type(self, column: str, dtype: pl.DataType, expected: str) -> None:
        raise UserError(f"{self.path}: column {column!r} is of type {dtype}; expected {expected}")


def filled_table(
    path: Path, frame: pl.DataFrame, rows: NDArray[np.int64], names: tuple[str, ...], sample: pl.DataFrame
) -> Table:
    """The table; UserError where it has no rows."""
    if len(rows) == 0:
        raise UserError(f"{path}: the table has no rows")
    return Table(path, frame, rows, names, sample)

"""A data frame in memory as a table: pandas, polars, pyarrow or a dict of columns, never by way of a file."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals.stable.v1 as nw
import numpy as np
import polars as pl

from rearec.data.tables.table import FLOAT32_WHOLE, SAMPLE_ROWS, STORE_WHOLE, Table, filled_table
from rearec.data.tables.times import FLOAT64_WHOLE
from rearec.errors import UserError, in_one_line

__all__ = ["FRAME", "frame_table", "title_mapping"]

# What messages call it, in place of a file.
FRAME = Path("the frame")
EXPECTED = "a table of pandas, polars or pyarrow, or a dict of columns"


def frame_table(
    frame: Any, columns: Sequence[str], ids: Sequence[str], path: Path = FRAME
) -> tuple[Table, tuple[str, ...]]:
    """The frame as a table, and what was decided without being asked, a line each.

    Args:
        frame: a data frame of pandas or polars (lazy too), a pyarrow table, or a dict of columns.
        columns: those that may be used; only these are converted, and of a lazy frame computed.
        ids: those of them that hold ids: whole numbers in floats, as pandas stores integers beside missing values,
            become integers.
        path: what messages call the frame.

    Raises:
        UserError: it is no table, has no rows, a column cannot be converted, or an id is a number with a fraction.
    """
    source = _Source(frame, path)
    wanted = [name for name in dict.fromkeys(columns) if name in source.names]
    for name in columns:
        if name in source.index:
            raise UserError(f"{path}: {name!r} is its index, not a column: frame.reset_index() makes it one")
    read = source.columns(wanted)
    notes = []
    for name in wanted:
        if name in ids and read[name].dtype.is_float():
            read[name] = _whole(read[name], name, path)
            example = read[name].drop_nulls().head(1).to_list()
            notes += [f"column {name!r} holds floats: {each}.0 is taken as the id {each}" for each in example]
    table = pl.DataFrame([values.alias(name) for name, values in read.items()])
    rows = np.arange(source.height if not wanted else table.height)
    return filled_table(path, table, rows, tuple(source.names), source.sample(read)), tuple(notes)


def title_mapping(titles: Any, item: str, title_column: str | None) -> dict[str, str]:
    """The title of each item that has one, from a mapping, a series by item, or a frame.

    Args:
        item: the column of items of a frame.
        title_column: that of the titles; None: "title", or else the only other one.

    Raises:
        UserError: it is none of these, or holds other things than texts.
    """
    path = Path("the titles")
    if not hasattr(titles, "columns") and hasattr(titles, "index") and hasattr(titles, "items"):
        titles = titles.dropna()
        titles = {"item": titles.index, "title": titles.array}
        item, title_column = "item", "title"
    elif isinstance(titles, Mapping) and not any(_is_column(value) for value in titles.values()):
        for key, value in titles.items():
            if not (value is None or isinstance(value, str) or _is_missing(value)):
                raise UserError(f"{path}: {key!r} has the title {value!r}, expected a text")
        present = {key: value for key, value in titles.items() if isinstance(value, str)}
        if not present:
            raise UserError(f"{path}: no item has one")
        titles = {"item": list(present), "title": list(present.values())}
        item, title_column = "item", "title"
    names = _Source(titles, path).names
    others = [name for name in names if name != item]
    if title_column is None:
        title_column = others[0] if len(others) == 1 else "title"
    return frame_table(titles, [item, title_column], [item], path)[0].titles(item, title_column)


def _is_missing(value: Any) -> bool:
    """nan, and what pandas has for a missing value, which is neither equal to itself nor unequal."""
    equal = value == value
    return not (isinstance(equal, bool | np.bool_) and equal)


def _is_column(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str)


class _Source:
    """A frame of any kind, column by column; ``height`` is -1 where it is not known; ``index``: that of pandas."""

    def __init__(self, frame: Any, path: Path) -> None:
        self.path = path
        self.index: list[str] = []
        self._lazy: nw.LazyFrame[Any] | None = None
        self._columns: Mapping[str, Any]
        self.height = -1
        if isinstance(frame, Mapping):
            self._columns = {str(name): values for name, values in frame.items()}
            self.names = list(self._columns)
            return
        try:
            found = nw.from_native(frame)
        except TypeError:
            kind = f"{type(frame).__module__.split('.')[0]}.{type(frame).__qualname__}".removeprefix("builtins.")
            raise UserError(f"{path}: expected {EXPECTED}, got {kind}") from None
        except Exception as error:
            # Two columns of one name, for one.
            raise UserError(f"{path}: cannot be read: {in_one_line(error)}") from error
        if isinstance(found, nw.LazyFrame):
            self._lazy = found
            self.names = list(found.collect_schema().names())
            return
        self._columns = {str(name): found.get_column(name) for name in found.columns}
        self.names = list(self._columns)
        self.height = len(found)
        index = getattr(getattr(frame, "index", None), "names", [])
        self.index = [str(name) for name in index if name is not None and str(name) not in self.names]

    def columns(self, names: Iterable[str]) -> dict[str, pl.Series]:
        """Columns in whole."""
        if self._lazy is not None:
            return self._computed(self._lazy.select(list(names)))
        read = {name: self._converted(name, self._columns[name]) for name in names}
        lengths = {len(values) for values in read.values()}
        if len(lengths) > 1:
            counts = ", ".join(f"{name!r} {len(values)}" for name, values in read.items())
            raise UserError(f"{self.path}: its columns are of different lengths: {counts}")
        return read

    def sample(self, read: Mapping[str, pl.Series]) -> pl.DataFrame:
        """The first rows of all columns that can be converted."""
        if self._lazy is not None:
            return pl.DataFrame(list(self._computed(self._lazy.head(SAMPLE_ROWS)).values()))
        first = {}
        for name in self.names:
            if name in read:
                first[name] = read[name].head(SAMPLE_ROWS)
                continue
            try:
                first[name] = self._converted(name, self._columns[name][:SAMPLE_ROWS])
            except (UserError, TypeError):
                # It is not used, and no column of times.
                continue
        rows = max((len(values) for values in first.values()), default=0)
        return pl.DataFrame([values.alias(name) for name, values in first.items() if len(values) == rows])

    def _computed(self, frame: nw.LazyFrame[Any]) -> dict[str, pl.Series]:
        try:
            found = frame.collect(backend="polars").to_native()
        except Exception as error:
            # Whatever the user's own expressions fail at.
            raise UserError(f"{self.path}: cannot be computed: {in_one_line(error)}") from error
        return {name: found[name] for name in found.columns}

    def _converted(self, name: str, values: Any) -> pl.Series:
        try:
            return _to_polars(values)
        except Exception as error:
            # Libraries have many errors for values of several kinds in one column.
            kinds = _kinds(values)
            why = f"holds values of several kinds ({kinds}): make them of one" if kinds else in_one_line(error)
            raise UserError(f"{self.path}: column {name!r} {why if kinds else f'cannot be read: {why}'}") from None


def _to_polars(values: Any) -> pl.Series:
    """A column of any library, or a sequence of Python's own values, without a copy where there need not be one."""
    if isinstance(values, pl.Series):
        return values
    try:
        series = values if isinstance(values, nw.Series) else nw.from_native(values, series_only=True)
    except TypeError:
        array = values if isinstance(values, (np.ndarray, list)) else _plain_array(values)
        if isinstance(array, np.ndarray) and array.dtype.kind == "M":
            return _dates(array)
        if isinstance(array, np.ndarray) and array.dtype != object:
            return pl.Series(array)
        listed = array if isinstance(array, list) else array.tolist()
        try:
            return pl.Series(listed)
        except TypeError:
            # nan, by which pandas and NumPy say that a text is missing
            return pl.Series([None if isinstance(each, float) and each != each else each for each in listed])
    native = series.to_native()
    if not series.implementation.is_pandas() or importlib.util.find_spec("pyarrow") is not None:
        return series.to_polars()
    # Without pyarrow polars takes from pandas what NumPy holds, and lists.
    if isinstance(series.dtype, nw.Datetime):
        zoned = series.dtype.time_zone is not None
        return _dates((native.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else native).to_numpy())
    if isinstance(native.dtype, np.dtype) and native.dtype.kind in "iufb":
        return pl.Series(native.to_numpy())
    present = native.notna().to_numpy()
    return pl.Series([value if there else None for value, there in zip(native.tolist(), present, strict=True)])


def _plain_array(values: Any) -> Any:
    """An index, an array of pandas, a range, ... as an array of NumPy, or a list."""
    if hasattr(values, "to_numpy"):
        return values.to_numpy()
    return list(values)


def _dates(array: np.ndarray[Any, Any]) -> pl.Series:
    """Dates of NumPy in a unit that polars has."""
    unit = np.datetime_data(array.dtype)[0]
    return pl.Series(array if unit in ("ms", "us", "ns") else array.astype("datetime64[us]"))


def _kinds(values: Any) -> str:
    """The types in a column, by name, where there are several."""
    native = values.to_native() if isinstance(values, nw.Series) else values
    kinds = {type(value).__name__ for value in native if value is not None and value == value}
    return ", ".join(sorted(kinds)) if len(kinds) > 1 else ""


def _whole(values: pl.Series, column: str, path: Path) -> pl.Series:
    """Floats as the integers that they are; null where they are nan.

    Raises:
        UserError: one is not whole, or too large to be known exactly.
    """
    floats = values.fill_nan(None)
    limit = FLOAT32_WHOLE if values.dtype == pl.Float32 else FLOAT64_WHOLE
    for wrong, expected in (
        (~floats.is_finite() | (floats != floats.floor()), "an id, which is text or a whole number"),
        (floats.abs() > limit, f"exact as a {str(values.dtype).lower()} ({STORE_WHOLE})"),
    ):
        if wrong.any():
            row = wrong.fill_null(False).arg_max()
            assert row is not None
            raise UserError(f"{path}: row {row}: column {column!r} is {values[row]}, not {expected}")
    return floats.cast(pl.Int64)

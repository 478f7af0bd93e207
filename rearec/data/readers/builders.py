"""Put the files of one source together: shared ids, one order, a part for each file of a given split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import HistoryRows, Interactions, Place, Reading, Vocabulary
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import Roles, select_rows
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.table import MissingValue, Table
from rearec.data.tables.times import Times, add_time_of_day, doubtful_numbers
from rearec.errors import UserError

__all__ = ["HistoryRowsBuilder", "InteractionsBuilder"]

# Rows whose histories are split into tokens at a time: bounds the memory of files with long histories.
SLICE_ROWS = 200_000

Column = TypeVar("Column")


class _Builder:
    """The columns that both forms share; files are added in order, each in one table or several."""

    def __init__(self, files: SourceFiles, options: PrepareOptions) -> None:
        self.files = files
        self.paths = files.paths
        self.options = options
        self.users = Vocabulary()
        self.items = Vocabulary()
        self._user: list[NDArray[np.int32]] = []
        self._item: list[NDArray[np.int32]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._path: list[int] = []
        self._rating: list[NDArray[np.float64] | None] = []
        self._used: dict[str, None] = {}
        self._names: dict[str, None] = {}
        self._order: dict[str, None] = {}
        self._dropped: Counter[str] = Counter()
        self._titles: dict[str, str] | None = None

    def _select(self, table: Table, roles: Roles, further: Sequence[str] = ()) -> Table:
        """The rows of a table that count; the columns are noted as used."""
        self._used.update(dict.fromkeys((*roles.all, *further)))
        self._order.update(dict.fromkeys(roles.times))
        self._names.update(dict.fromkeys(table.names or table.frame.columns))
        table = select_rows(table, roles, self.options, self._dropped)
        _refuse_second_header(table, roles)
        return table

    def _add_rows(self, path: Path, rows: NDArray[np.int64]) -> None:
        self._path.append(self.paths.index(path))
        self._rows.append(rows)

    def _joined_rating(self) -> NDArray[np.float64] | None:
        ratings = self._all_or_none(self._rating, "rating")
        return None if ratings is None else np.concatenate(ratings)

    def _all_or_none(self, parts: list[Column | None], name: str) -> list[Column] | None:
        """The column of every table, or None where no table has it."""
        present = [part for part in parts if part is not None]
        if not present:
            return None
        if len(present) < len(parts):
            lacks = [part is None for part in parts]
            without, having = (self.paths[self._path[lacks.index(missing)]] for missing in (True, False))
            raise UserError(f"{without}: no {name} column, but {having} has one")
        return present

    def _file(self) -> NDArray[np.int32]:
        return np.repeat(np.asarray(self._path, dtype=np.int32), [len(rows) for rows in self._rows])

    def _place(self) -> Place:
        return Place(self.paths, self._file(), np.concatenate(self._rows))

    def _part(self) -> NDArray[np.int8]:
        return np.asarray(self.files.parts, dtype=np.int8)[self._file()]

    def _reading(self) -> Reading:
        used = [name for name in self._used if name in self._names]
        conditions = condition_columns(self.options.where)
        unused = tuple(name for name in self._names if name not in self._used and name not in conditions)
        kind = self.files.kind
        return Reading(tuple(self._order), tuple(used), unused, dict(self._dropped), kind, self._titles)


def _refuse_second_header(table: Table, roles: Roles) -> None:
    """UserError where a row holds the names of its columns: files were joined with their headers."""
    columns = [table.column(name) for name in (roles.user, roles.item)]
    if any(column.dtype != pl.String for column in columns):
        return
    again = (columns[0] == roles.user) & (columns[1] == roles.item)
    if again.any():
        row = table.rows[int(again.arg_max() or 0)]
        raise UserError(f"{table.path}: row {row}: the header again; --missing {roles.user} drops such rows")


class InteractionsBuilder(_Builder):
    """Interactions from one file after the other."""

    def __init__(self, files: SourceFiles, options: PrepareOptions) -> None:
        super().__init__(files, options)
        self._times: list[Times | None] = []

    def add_table(self, table: Table, roles: Roles, title_column: str | None = None) -> None:
        """The interactions of a table, and the titles of its items, if a column holds them."""
        table = self._select(table, roles, [title_column] if title_column else [])
        try:
            users, items = table.tokens(roles.user), table.tokens(roles.item)
            times = self._read_times(table, roles.times) if roles.times else None
        except MissingValue as error:
            raise UserError(f"{error}; --drop-incomplete leaves such rows out") from None
        self._user.append(self.users.encode_series(users))
        self._item.append(self.items.encode_series(items))
        self._add_rows(table.path, table.rows)
        self._rating.append(None if roles.rating is None else table.numbers(roles.rating))
        self._times.append(times)
        if title_column is not None:
            self._add_titles(table, roles.item, title_column)

    def _add_titles(self, table: Table, item_column: str, title_column: str) -> None:
        if (np.diff(table.rows) == 0).any():
            raise UserError(
                f"{table.path}: a row holds a list of items: their titles need a file of their own (--titles)"
            )
        if self._titles is None:
            self._titles = {}
        for item, title in table.titles(item_column, title_column).items():
            if not self._titles.get(item):
                self._titles[item] = title

    def _read_times(self, table: Table, columns: tuple[str, ...]) -> Times:
        times = table.times(columns[0], self.options.time_format)
        if len(columns) == 1:
            return times
        return add_time_of_day(times, table.column(columns[1])) or Times(
            times.values, times.unit, table.times(columns[1]).values
        )

    def add_tokens(self, path: Path, users: Sequence[str], items: Sequence[str], rows: NDArray[np.int64]) -> None:
        """Interactions of a file in time order, without ratings."""
        if self.options.missing:
            marks = set(self.options.missing)
            kept = [user not in marks and item not in marks for user, item in zip(users, items, strict=True)]
            self._dropped[f"missing by --missing {', '.join(self.options.missing)}"] += kept.count(False)
            users = [user for user, keep in zip(users, kept, strict=True) if keep]
            items = [item for item, keep in zip(items, kept, strict=True) if keep]
            rows = rows[np.asarray(kept, dtype=bool)]
        self._user.append(self.users.encode(users))
        self._item.append(self.items.encode(items))
        self._add_rows(path, rows)
        self._rating.append(None)
        self._times.append(None)

    def build(self) -> Interactions:
        """All interactions.

        Raises:
            UserError: some files have ratings or timestamps and others not, or timestamps of another kind; or they can
                hardly be what they count.
        """
        return Interactions(
            user=np.concatenate(self._user),
            item=np.concatenate(self._item),
            user_ids=self.users.tokens,
            item_ids=self.items.tokens,
            place=self._place(),
            rating=self._joined_rating(),
            times=self._joined_times(),
            part=None if self.files.parts is None else self._part(),
            reading=self._reading(),
        )

    def _joined_times(self) -> Times | None:
        times = self._all_or_none(self._times, "timestamp")
        if times is None:
            return None
        other = next((i for i, part in enumerate(times) if part.unit != times[0].unit), None)
        if other is not None:
            kinds = "the timestamps are of another kind (numbers, dates, finer dates) than those of"
            raise UserError(f"{self.paths[self._path[other]]}: {kinds} {self.paths[0]}")
        seconds = [part.then for part in times]
        then: list[NDArray[Any]] | None = self._all_or_none(seconds, "second timestamp")
        values = np.concatenate([part.values for part in times])
        joined = Times(values, times[0].unit, None if then is None else np.concatenate(then))
        if joined.unit == "number" and self.options.time_format is None and len(values):
            doubt = doubtful_numbers(values)
            if doubt is not None:
                index, why = doubt
                column = next(iter(self._order))
                raise UserError(f"{self._place().name(index)}: column {column!r} is {values[index]}: {why}")
        return joined


class HistoryRowsBuilder(_Builder):
    """Rows with a history from the train, valid and test files of a given split."""

    def __init__(self, files: SourceFiles, options: PrepareOptions) -> None:
        super().__init__(files, options)
        self._lengths: list[NDArray[np.int64]] = []

    def add_table(self, table: Table, user: str, history: str, item: str, rating: str | None) -> None:
        """The rows of a table; the history is a string of tokens with blanks between, or missing where it is empty."""
        table = self._select(table, Roles(user, item, rating, ()), [history])
        self._user.append(self.users.encode_series(table.tokens(user)))
        frame = pl.DataFrame({"history": table.column(history).fill_null(""), "item": table.tokens(item)})
        sequence = pl.concat_list(pl.col("history").str.extract_all(r"[^ ]+"), pl.col("item")).alias("sequence")
        for piece in frame.iter_slices(SLICE_ROWS):
            sequences = piece.select(sequence).to_series()
            self._lengths.append(sequences.list.len().cast(pl.Int64).to_numpy())
            self._item.append(self.items.encode_series(sequences.explode()))
        self._add_rows(table.path, table.rows)
        self._rating.append(None if rating is None else table.numbers(rating))

    def build(self) -> HistoryRows:
        """All rows.

        Raises:
            UserError: some files have ratings and others not.
        """
        return HistoryRows(
            user=np.concatenate(self._user),
            items=np.concatenate(self._item),
            offsets=np.concatenate(([0], np.cumsum(np.concatenate(self._lengths)))),
            user_ids=self.users.tokens,
            item_ids=self.items.tokens,
            place=self._place(),
            part=self._part(),
            rating=self._joined_rating(),
            reading=self._reading(),
        )

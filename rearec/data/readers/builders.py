"""Put the files of one source together: shared ids, one order, a part for each file of a given split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.readers.conditions import condition_columns
from rearec.data.readers.interactions import HistoryRows, Interactions, Place, Reading, Vocabulary
from rearec.data.readers.options import PrepareOptions
from rearec.data.readers.selection import Decisions, Roles, select_rows
from rearec.data.readers.source_files import SourceFiles
from rearec.data.tables.arrays import Array, Scratch, in_blocks
from rearec.data.tables.table import STORE_WHOLE, MissingValue, Table
from rearec.data.tables.times import FLOAT64_WHOLE, Times, TimeUnit, add_time_of_day, doubtful_numbers
from rearec.errors import UserError

__all__ = ["HistoryRowsBuilder", "InteractionsBuilder"]

# Rows whose histories are split into tokens at a time: bounds the memory of files with long histories.
SLICE_ROWS = 200_000


class _Builder:
    """The columns that both forms share; files are added in order, each in one table or several."""

    def __init__(self, files: SourceFiles, options: PrepareOptions, scratch: Scratch) -> None:
        self.files = files
        self.paths = files.paths
        self.options = options
        self.scratch = scratch
        self.users = Vocabulary()
        self.items = Vocabulary()
        self._user = scratch.column(np.int32)
        self._item = scratch.column(np.int32)
        self._file = scratch.column(np.int32)
        self._row = scratch.column(np.int64)
        self._rating = scratch.column(np.float64)
        # For each table the index of its file, and whether it has ratings.
        self._path: list[int] = []
        self._rated: list[bool] = []
        self._used: dict[str, None] = {}
        self._names: dict[str, None] = {}
        self._order: dict[str, None] = {}
        self._dropped: Counter[str] = Counter()
        self._titles: dict[str, str] | None = None

    def _select(self, table: Table, roles: Roles, decisions: Decisions, further: Sequence[str] = ()) -> Table:
        """The rows of a table that count; the columns are noted as used."""
        self._used.update(dict.fromkeys((*roles.all, *further)))
        self._order.update(dict.fromkeys(roles.times))
        self._names.update(dict.fromkeys(table.names or table.frame.columns))
        table = select_rows(table, roles, self.options, self._dropped, decisions)
        _refuse_second_header(table, roles)
        return table

    def _refuse_too_many(self) -> None:
        """UserError where there is no memory for the ids."""
        ids = len(self.users) + len(self.items)
        if self.scratch.ids is not None and ids > self.scratch.ids:
            raise UserError(
                f"--memory-limit {self.options.memory_limit}: too little for the ids of {len(self.users):,} users and "
                f"{len(self.items):,} items, and there are more"
            )

    def _add_rows(self, path: Path, rows: NDArray[np.int64]) -> None:
        self._path.append(self.paths.index(path))
        self._file.append(np.full(len(rows), self._path[-1], dtype=np.int32))
        self._row.append(rows)

    def _add_rating(self, rating: NDArray[np.float64] | None) -> None:
        self._rated.append(rating is not None)
        if rating is not None:
            self._rating.append(rating)

    def _joined_rating(self) -> Array | None:
        return self._rating.done() if self._all_have(self._rated, "rating") else None

    def _all_have(self, tables: list[bool], name: str) -> bool:
        """Whether every table has a column (and not none of them)."""
        if any(tables) and not all(tables):
            without, having = (self.paths[self._path[tables.index(there)]] for there in (False, True))
            raise UserError(f"{without}: no {name} column, but {having} has one")
        return any(tables)

    def _place(self) -> Place:
        return Place(self.paths, self._file.done(), self._row.done())

    def _part(self) -> Array:
        parts, column = np.asarray(self.files.parts, dtype=np.int8), self.scratch.column(np.int8)
        for (file,) in in_blocks(self._file.done()):
            column.append(parts[file])
        return column.done()

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

    def __init__(self, files: SourceFiles, options: PrepareOptions, scratch: Scratch | None = None) -> None:
        super().__init__(files, options, scratch or Scratch())
        # For each table the unit of its times, None without, and whether a second column orders what is equal.
        self._units: list[str | None] = []
        self._second: list[bool] = []
        self._values, self._then = (self.scratch.column(np.int64) for _ in range(2))

    def add_table(
        self, table: Table, roles: Roles, title_column: str | None = None, decisions: Decisions | None = None
    ) -> None:
        """The interactions of a table, and the titles of its items, if a column holds them.

        decisions: made of the blocks of the same file that were added before; None: the table is to be taken by itself.

        Raises:
            UnlikeBlocks: see `Decisions`.
        """
        decisions = decisions or Decisions(table.path, known=True)
        table = self._select(table, roles, decisions, [title_column] if title_column else [])
        try:
            users, items = table.tokens(roles.user), table.tokens(roles.item)
            times = self._read_times(table, roles.times, decisions) if roles.times else None
        except MissingValue as error:
            raise UserError(f"{error}; --drop-incomplete leaves such rows out") from None
        self._user.append(self.users.encode_series(users))
        self._item.append(self.items.encode_series(items))
        self._refuse_too_many()
        self._add_rows(table.path, table.rows)
        self._add_rating(None if roles.rating is None else table.numbers(roles.rating))
        self._add_times(times)
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

    def _read_times(self, table: Table, columns: tuple[str, ...], decisions: Decisions) -> Times:
        times = table.times(columns[0], self.options.time_format)
        decisions.check("unit", times.unit)
        if len(columns) == 1:
            return times
        of_day = add_time_of_day(times, table.column(columns[1]))
        decisions.check("time of day", of_day is not None)
        return of_day or Times(times.values, times.unit, table.times(columns[1]).values)

    def _add_times(self, times: Times | None) -> None:
        self._units.append(None if times is None else times.unit)
        if times is None:
            return
        for column, values in ((self._values, times.values), (self._then, times.then)):
            if values is not None:
                column.append(values[:])
        self._second.append(times.then is not None)

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
        self._add_rating(None)
        self._add_times(None)

    def build(self) -> Interactions:
        """All interactions.

        Raises:
            UserError: some files have ratings or timestamps and others not, or timestamps of another kind; or they can
                hardly be what they count.
        """
        return Interactions(
            user=self._user.done(),
            item=self._item.done(),
            user_ids=self.users.tokens,
            item_ids=self.items.tokens,
            place=self._place(),
            rating=self._joined_rating(),
            times=self._joined_times(),
            part=None if self.files.parts is None else self._part(),
            reading=self._reading(),
        )

    def _joined_times(self) -> Times | None:
        if not self._all_have([unit is not None for unit in self._units], "timestamp"):
            return None
        units = [cast(TimeUnit, unit) for unit in self._units]
        other = next((i for i, unit in enumerate(units) if unit != units[0]), None)
        if other is not None:
            kinds = "the timestamps are of another kind (numbers, dates, finer dates) than those of"
            raise UserError(f"{self.paths[self._path[other]]}: {kinds} {self.paths[0]}")
        then = self._then.done() if self._all_have(self._second, "second timestamp") else None
        joined = Times(self._values.done(), units[0], then)
        if self._values.dtype.kind == "f" and max(map(abs, joined.span())) > FLOAT64_WHOLE:
            column = next(iter(self._order))
            raise UserError(f"{self.paths[0]}: column {column!r} is not exact as a float64 ({STORE_WHOLE})")
        if joined.unit == "number" and self.options.time_format is None and len(joined.values):
            doubt = doubtful_numbers(joined.values)
            if doubt is not None:
                index, why = doubt
                column, value = next(iter(self._order)), joined.values[index : index + 1][0]
                raise UserError(f"{self._place().name(index)}: column {column!r} is {value}: {why}")
        return joined


class HistoryRowsBuilder(_Builder):
    """Rows with a history from the train, valid and test files of a given split."""

    def __init__(self, files: SourceFiles, options: PrepareOptions) -> None:
        super().__init__(files, options, Scratch())
        self._lengths: list[NDArray[np.int64]] = []

    def add_table(self, table: Table, user: str, history: str, item: str, rating: str | None) -> None:
        """The rows of a table; the history is a string of tokens with blanks between, or missing where it is empty."""
        table = self._select(table, Roles(user, item, rating, ()), Decisions(table.path, known=True), [history])
        self._user.append(self.users.encode_series(table.tokens(user)))
        frame = pl.DataFrame({"history": table.column(history).fill_null(""), "item": table.tokens(item)})
        sequence = pl.concat_list(pl.col("history").str.extract_all(r"[^ ]+"), pl.col("item")).alias("sequence")
        for piece in frame.iter_slices(SLICE_ROWS):
            sequences = piece.select(sequence).to_series()
            self._lengths.append(sequences.list.len().cast(pl.Int64).to_numpy())
            self._item.append(self.items.encode_series(sequences.explode()))
        self._add_rows(table.path, table.rows)
        self._add_rating(None if rating is None else table.numbers(rating))

    def build(self) -> HistoryRows:
        """All rows.

        Raises:
            UserError: some files have ratings and others not.
        """
        rating = self._joined_rating()
        return HistoryRows(
            user=self._user.done()[:],
            items=self._item.done()[:],
            offsets=np.concatenate(([0], np.cumsum(np.concatenate(self._lengths)))),
            user_ids=self.users.tokens,
            item_ids=self.items.tokens,
            place=self._place(),
            part=self._part()[:],
            rating=None if rating is None else rating[:],
            reading=self._reading(),
        )

"""Put the files of one source together: shared ids, one order, one part per file of a given split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rearec.data.interactions import HistoryRows, Interactions, Place, Vocabulary
from rearec.data.tables.table import Table
from rearec.data.tables.times import Times
from rearec.errors import UserError

__all__ = ["HistoryRowsBuilder", "InteractionsBuilder"]

# Rows whose histories are split into tokens at a time: bounds the memory of files with long histories.
SLICE_ROWS = 200_000

Column = TypeVar("Column")


class _Builder:
    """The columns that both forms share; files are added in order, each in one table or several."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.users = Vocabulary()
        self.items = Vocabulary()
        self._user: list[NDArray[np.int32]] = []
        self._item: list[NDArray[np.int32]] = []
        self._rows: list[NDArray[np.int64]] = []
        self._path: list[int] = []
        self._rating: list[NDArray[np.float64] | None] = []

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


class InteractionsBuilder(_Builder):
    """Interactions from one file after the other; ``given``: the files are the train, valid and test part."""

    def __init__(self, paths: list[Path], given: bool) -> None:
        super().__init__(paths)
        self.given = given
        self._times: list[Times | None] = []

    def add_table(self, table: Table, user: str, item: str, rating: str | None, timestamp: str | None) -> None:
        """The interactions of a table; a column that is None is not used."""
        self._user.append(self.users.encode_series(table.tokens(user)))
        self._item.append(self.items.encode_series(table.tokens(item)))
        self._add_rows(table.path, table.rows)
        self._rating.append(None if rating is None else table.numbers(rating))
        self._times.append(None if timestamp is None else table.times(timestamp))

    def add_tokens(self, path: Path, users: Iterable[str], items: Iterable[str], rows: NDArray[np.int64]) -> None:
        """Interactions of a file in time order, without ratings."""
        self._user.append(self.users.encode(users))
        self._item.append(self.items.encode(items))
        self._add_rows(path, rows)
        self._rating.append(None)
        self._times.append(None)

    def build(self) -> Interactions:
        """All interactions.

        Raises:
            UserError: some files have ratings or timestamps and others not, or timestamps of another kind.
        """
        times = self._all_or_none(self._times, "timestamp")
        if times is not None:
            other = next((i for i, part in enumerate(times) if part.unit != times[0].unit), None)
            if other is not None:
                kinds = "the timestamps are of another kind (numbers, dates, finer dates) than those of"
                raise UserError(f"{self.paths[self._path[other]]}: {kinds} {self.paths[0]}")
        return Interactions(
            user=np.concatenate(self._user),
            item=np.concatenate(self._item),
            user_ids=self.users.tokens,
            item_ids=self.items.tokens,
            place=self._place(),
            rating=self._joined_rating(),
            times=None if times is None else Times(np.concatenate([part.values for part in times]), times[0].unit),
            part=self._file().astype(np.int8) if self.given else None,
        )


class HistoryRowsBuilder(_Builder):
    """Rows with a history from the train, valid and test file of a given split, in this order."""

    def __init__(self, paths: list[Path]) -> None:
        super().__init__(paths)
        self._lengths: list[NDArray[np.int64]] = []

    def add_table(self, table: Table, user: str, history: str, item: str, rating: str | None) -> None:
        """The rows of a table; the history is a string of tokens with blanks between, or missing where it is empty."""
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
            part=self._file().astype(np.int8),
            rating=self._joined_rating(),
        )

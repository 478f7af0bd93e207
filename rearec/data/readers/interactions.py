"""What the readers hand on: interactions, or rows with an explicit history, with ids as dense numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges
from rearec.data.tables.arrays import Array, blocks

if TYPE_CHECKING:
    import polars as pl

    from rearec.data.tables.times import Times

__all__ = ["HistoryRows", "Interactions", "Place", "Reading", "Vocabulary", "as_token"]


def as_token(value: object) -> str:
    """An id as the dataset has it: text as it is, a whole number as its digits.

    Raises:
        TypeError: it is neither: a float, a bool, None, ...

    Examples:
        >>> from rearec.data import as_token
        >>> as_token(10966), as_token("B07")
        ('10966', 'B07')
        >>> as_token(7.0)
        Traceback (most recent call last):
        TypeError: an id is text or a whole number, got 7.0 (float)
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    raise TypeError(f"an id is text or a whole number, got {value!r} ({type(value).__name__})")


class Vocabulary:
    """Dense ids of string tokens, in order of first appearance."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    @property
    def tokens(self) -> list[str]:
        """The token of each dense id."""
        return list(self._codes)

    def __len__(self) -> int:
        return len(self._codes)

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """int32, the dense id of each token; unknown ones get the next ids."""
        codes, listed = self._codes, list(tokens)
        new = [token for token in dict.fromkeys(listed) if token not in codes]
        codes.update(zip(new, range(len(codes), len(codes) + len(new)), strict=True))
        return np.fromiter(map(codes.__getitem__, listed), dtype=np.int32, count=len(listed))

    def encode_series(self, tokens: pl.Series) -> NDArray[np.int32]:
        """The same for a polars series of strings without nulls; Python work only per distinct token."""
        import polars as pl  # here: a generated dataset is assembled without any table

        unique = tokens.unique(maintain_order=True)
        return tokens.replace_strict(unique, pl.Series(self.encode(unique)), return_dtype=pl.Int32).to_numpy().copy()


@dataclass(frozen=True)
class Place:
    """Where each row stands: ``file`` int32 (index in ``files``), ``row`` int64 (in a file from 1), as they were read.

    index: which of those that were read each row is, where rows were left out or put in another order since.
    """

    files: list[Path]
    file: Array
    row: Array
    index: Array | None = None

    def name(self, index: int) -> str:
        """'FILE: row N' of the row ``index``."""
        read = int(self.read_as(slice(index, index + 1))[0])
        here = slice(read, read + 1)
        return f"{self.files[self.file[here][0]]}: row {self.row[here][0]}"

    def read_as(self, part: slice) -> NDArray[np.int64]:
        """int64, which of those that were read the rows of a slice are."""
        return np.arange(part.start, part.stop) if self.index is None else self.index[part].astype(np.int64)

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64] | slice, part: slice | None = None) -> Place:
        """The places of the kept rows, given as a mask or as indices; part: of those of a slice."""
        if part is None:
            part = slice(0, len(self.file if self.index is None else self.index))
        return replace(self, index=self.read_as(part)[kept])


@dataclass(frozen=True)
class Reading:
    """What a reader made of the source beyond the interactions themselves.

    Attributes:
        times: the columns that order the events; empty: the rows of the files do.
        columns: all columns that were used; empty where the format has no named ones.
        unused: the columns that were not.
        dropped: why rows were left out, and how many.
        kind: what the source is made of, in a word for the user: "file" or "frame".
        titles: the title of each item that has one, where a column of the source is said to hold them.
    """

    times: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    dropped: Mapping[str, int] = field(default_factory=dict)
    kind: str = "file"
    titles: Mapping[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Interactions:
    """n interactions; their arrays are in memory, or in files (`rearec.data.tables.arrays`).

    Attributes:
        user, item: int32 [n], dense ids in order of first appearance.
        user_ids, item_ids: the token of each dense id.
        place: where each stands in the source.
        rating: float64 [n], nan where there is none; None without ratings.
        times: the timestamps; None where the source is in time order already.
        part: int8 [n], the part of a given split that its file is: 0 train, 1 valid, 2 test; None otherwise.
        reading: how they were read.
        in_order: whether they are sorted by user, then time, and not as they were read.
    """

    user: Array
    item: Array
    user_ids: list[str]
    item_ids: list[str]
    place: Place
    rating: Array | None = None
    times: Times | None = None
    part: Array | None = None
    reading: Reading = field(default_factory=Reading)
    in_order: bool = False

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} of {len(self.user_ids):,} users with {len(self.item_ids):,} items)"

    @property
    def columns(self) -> dict[str, Array]:
        """The arrays that there are, by "user", "item", "values" and "then" of the times, "rating" and "part"."""
        times = self.times
        found = {"user": self.user, "item": self.item, "rating": self.rating, "part": self.part}
        found |= {} if times is None else {"values": times.values, "then": times.then}
        return {name: array for name, array in found.items() if array is not None}

    def with_columns(self, columns: Mapping[str, Array], place: Place, in_order: bool) -> Interactions:
        """Others with the same ids, given as `columns` gives them."""
        times = None if self.times is None else replace(self.times, values=columns["values"], then=columns.get("then"))
        return replace(
            self,
            user=columns["user"],
            item=columns["item"],
            place=place,
            rating=columns.get("rating"),
            times=times,
            part=columns.get("part"),
            in_order=in_order,
        )

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64], part: slice | None = None) -> Interactions:
        """The kept interactions, in memory, given as a mask or as ascending indices; the ids stay as they are.

        part: a slice that they are of; None: all.
        """
        part = part or slice(0, len(self))
        columns = {name: array[part][kept] for name, array in self.columns.items()}
        return self.with_columns(columns, self.place.take(kept, part), self.in_order)

    def part_of(self, part: slice) -> Interactions:
        """Those of a slice, in memory."""
        columns = {name: array[part] for name, array in self.columns.items()}
        place = self.place if part == slice(0, len(self)) else self.place.take(slice(None), part)
        return self.with_columns(columns, place, self.in_order)

    def user_blocks(self, rows: int) -> Iterator[slice]:
        """Slices of about that many rows, or of one user with more, in which all rows of a user are: if in order."""
        start, count = 0, len(self)
        while start < count:
            stop = min(start + rows, count)
            if stop < count:
                stop = self._begin_of_user(start, stop) or self._end_of_user(stop)
            yield slice(start, stop)
            start = stop

    def _begin_of_user(self, start: int, stop: int) -> int:
        """Where the user of row ``stop`` begins, 0 where that is no later than ``start``."""
        user = self.user[start : stop + 1]
        first = int(np.searchsorted(user, user[-1]))
        return start + first if first else 0

    def _end_of_user(self, row: int) -> int:
        """Where the user of a row ends."""
        user, step = int(self.user[row : row + 1][0]), 1 << 16
        while row < len(self):
            others = np.flatnonzero(self.user[row : row + step] != user)
            if len(others):
                return row + int(others[0])
            row += step
        return len(self)

    def place_of_item(self, item: int) -> str:
        """Where the item first occurs."""
        earliest = None
        for part in blocks(len(self)):
            read = self.place.read_as(part)
            found = np.flatnonzero(self.item[part] == item)
            if len(found):
                first = int(found[np.argmin(read[found])])
                if earliest is None or read[first] < earliest[0]:
                    earliest = int(read[first]), part.start + first
        assert earliest is not None
        return self.place.name(earliest[1])


@dataclass(frozen=True)
class HistoryRows:
    """n rows of a given split, each with its history.

    Attributes:
        user: int32 [n], dense ids in order of first appearance.
        items: int32 [total], history and then target of each row, one row after the other.
        offsets: int64 [n + 1], row r is ``items[offsets[r] : offsets[r + 1]]``.
        user_ids, item_ids: the token of each dense id.
        place: where each row stands in the source.
        part: int8 [n], 0 train, 1 valid, 2 test.
        rating: float64 [n], the target's, nan where there is none; None without ratings.
        reading: how they were read.
    """

    user: NDArray[np.int32]
    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    user_ids: list[str]
    item_ids: list[str]
    place: Place
    part: NDArray[np.int8]
    rating: NDArray[np.float64] | None = None
    reading: Reading = field(default_factory=Reading)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"HistoryRows({len(self):,} of {len(self.user_ids):,} users with {len(self.item_ids):,} items)"

    def take(self, kept: NDArray[np.int64]) -> HistoryRows:
        """The kept rows, given as indices; the ids stay as they are."""
        length = np.diff(self.offsets)[kept]
        return replace(
            self,
            user=self.user[kept],
            items=self.items[ranges(self.offsets[:-1][kept], length)],
            offsets=np.concatenate(([0], np.cumsum(length))),
            place=self.place.take(kept),
            part=self.part[kept],
            rating=None if self.rating is None else self.rating[kept],
        )

    def place_of_item(self, item: int) -> str:
        """Where the item first occurs."""
        slot = np.flatnonzero(self.items == item)[0]
        return self.place.name(int(np.searchsorted(self.offsets, slot, side="right")) - 1)

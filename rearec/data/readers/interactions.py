"""What the readers hand on: interactions, or rows with an explicit history, with ids as dense numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges

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

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """int32, the dense id of each token; unknown ones get the next ids."""
        codes = self._codes
        return np.fromiter((codes.setdefault(token, len(codes)) for token in tokens), dtype=np.int32)

    def encode_series(self, tokens: pl.Series) -> NDArray[np.int32]:
        """The same for a polars series of strings without nulls; Python work only per distinct token."""
        import polars as pl  # here: a generated dataset is assembled without any table

        unique = tokens.unique(maintain_order=True)
        return tokens.replace_strict(unique, pl.Series(self.encode(unique)), return_dtype=pl.Int32).to_numpy().copy()


@dataclass(frozen=True)
class Place:
    """Where each row of a source stands: ``file`` int32 (index in ``files``), ``row`` int64 (in a file from 1)."""

    files: list[Path]
    file: NDArray[np.int32]
    row: NDArray[np.int64]

    def name(self, index: int) -> str:
        """'FILE: row N' of the row ``index``."""
        return f"{self.files[self.file[index]]}: row {self.row[index]}"

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Place:
        """The places of the kept rows."""
        return replace(self, file=self.file[kept], row=self.row[kept])


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
    """n interactions in source order.

    Attributes:
        user, item: int32 [n], dense ids in order of first appearance.
        user_ids, item_ids: the token of each dense id.
        place: where each stands in the source.
        rating: float64 [n], nan where there is none; None without ratings.
        times: the timestamps; None where the source is in time order already.
        part: int8 [n], the part of a given split that its file is: 0 train, 1 valid, 2 test; None otherwise.
        reading: how they were read.
    """

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    user_ids: list[str]
    item_ids: list[str]
    place: Place
    rating: NDArray[np.float64] | None = None
    times: Times | None = None
    part: NDArray[np.int8] | None = None
    reading: Reading = field(default_factory=Reading)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        return f"Interactions({len(self):,} of {len(self.user_ids):,} users with {len(self.item_ids):,} items)"

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Interactions:
        """The kept interactions, given as a mask or as indices; the ids stay as they are."""
        return replace(
            self,
            user=self.user[kept],
            item=self.item[kept],
            place=self.place.take(kept),
            rating=None if self.rating is None else self.rating[kept],
            times=None if self.times is None else self.times.take(kept),
            part=None if self.part is None else self.part[kept],
        )

    def place_of_item(self, item: int) -> str:
        """Where the item first occurs."""
        return self.place.name(int(np.flatnonzero(self.item == item)[0]))


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

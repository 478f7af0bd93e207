"""Filters on rows (predictions) after the split: the histories keep what no row predicts any more."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rearec.data.preparation.splits import TRAIN, Sequences

__all__ = ["RowFilters", "filter_rows"]


@dataclass(frozen=True)
class RowFilters:
    """Which rows stay; by default all.

    Attributes:
        min_target_rating: the target's rating is at least this.
        min_train_history, min_eval_history: fewest items before the target, in train and in valid and test.
        known_items: valid and test rows need a target and a history of items that occur in train rows.
    """

    min_target_rating: float | None = None
    min_train_history: int = 0
    min_eval_history: int = 0
    known_items: bool = False

    @property
    def any(self) -> bool:
        """Whether any row may be dropped."""
        asked = self.min_target_rating is not None or self.known_items
        return asked or self.min_train_history > 0 or self.min_eval_history > 0


def filter_rows(sequences: Sequences, filters: RowFilters, barred: NDArray[np.bool_] | None = None) -> Sequences:
    """The sequences with the rows that pass; what no row refers to any more is cut off.

    Args:
        barred: bool [items], items that no row may have as target or in its history; None bars none.
    """
    rows = sequences.rows
    if barred is not None:
        rows = rows.take(~_meets(sequences.with_rows(rows), barred))
    if filters.min_target_rating is not None:
        assert rows.rating is not None
        rows = rows.take(rows.rating >= filters.min_target_rating)
    fewest = np.where(rows.part == TRAIN, filters.min_train_history, filters.min_eval_history)
    rows = rows.take(rows.position >= fewest)
    if filters.known_items:
        unknown = ~_trained_items(sequences.with_rows(rows), int(sequences.items.max()) + 1)
        rows = rows.take(~_meets(sequences.with_rows(rows), unknown))
    return _cut(sequences.with_rows(rows))


def _meets(sequences: Sequences, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """bool [rows]: the target or an item of the history is marked."""
    count = np.concatenate(([0], np.cumsum(marked[sequences.items])))
    first = sequences.offsets[sequences.rows.sequence]
    return count[first + sequences.rows.position + 1] > count[first]


def _trained_items(sequences: Sequences, count: int) -> NDArray[np.bool_]:
    """bool [count]: the item is the target or in the history of a train row."""
    trained = np.zeros(count, dtype=bool)
    train = sequences.rows.take(sequences.rows.part == TRAIN)
    trained[sequences.items[_referenced(sequences.with_rows(train))]] = True
    return trained


def _referenced(sequences: Sequences) -> NDArray[np.bool_]:
    """bool [total]: the slot is the target or in the history of a row."""
    length = _row_ends(sequences)
    slot = np.arange(len(sequences.items)) - np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))
    return slot < np.repeat(length, np.diff(sequences.offsets))


def _row_ends(sequences: Sequences) -> NDArray[np.int64]:
    """int64 [sequences]: the items up to and with the target of the last row, 0 without a row."""
    ends = np.zeros(len(sequences.user), dtype=np.int64)
    # Rows are sorted by position: the last one of a sequence is assigned last.
    last = np.flatnonzero(np.diff(sequences.rows.sequence, append=-1))
    ends[sequences.rows.sequence[last]] = sequences.rows.position[last] + 1
    return ends


def _cut(sequences: Sequences) -> Sequences:
    """Without sequences that have no row, and without what comes after a sequence's last row."""
    length = _row_ends(sequences)
    kept = length > 0
    new_index = np.cumsum(kept) - 1
    rows = sequences.rows
    return Sequences(
        items=sequences.items[_referenced(sequences)],
        offsets=np.concatenate(([0], np.cumsum(length[kept]))),
        user=sequences.user[kept],
        rows=type(rows)(new_index[rows.sequence], rows.position, rows.part, rows.rating),
    )

"""Filters on rows (predictions) after the split: the histories keep what no row predicts any more."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearec.data.preparation.splits import TRAIN, Sequences
from rearec.data.readers.options import PrepareOptions

__all__ = ["filter_rows"]


def filter_rows(sequences: Sequences, options: PrepareOptions, barred: NDArray[np.bool_] | None = None) -> Sequences:
    """The sequences with the rows that pass the options' filters on rows; what no row refers to any more is cut off.

    Args:
        barred: bool [items], items that no row may have as target or in its history; None bars none.
    """
    fewest_train, fewest_eval = options.min_train_history or 0, options.min_eval_history or 0
    none_asked = options.min_target_rating is None and not (fewest_train or fewest_eval or options.known_items)
    if none_asked and barred is None:
        return sequences
    rows = sequences.rows
    if barred is not None:
        rows = rows.take(~_meets(sequences.with_rows(rows), barred))
    if options.min_target_rating is not None:
        assert rows.rating is not None
        rows = rows.take(rows.rating >= options.min_target_rating)
    fewest = np.where(rows.part == TRAIN, fewest_train, fewest_eval)
    rows = rows.take(rows.position >= fewest)
    if options.known_items:
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

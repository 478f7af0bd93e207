"""Filters on rows (predictions) after the split: the histories keep what no row predicts any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rearec.data.preparation.removals import least
from rearec.data.preparation.splits import TRAIN, Rows, Sequences
from rearec.data.readers.options import PrepareOptions

__all__ = ["filter_rows"]


def filter_rows(
    sequences: Sequences,
    options: PrepareOptions,
    barred: NDArray[np.bool_] | None = None,
    note: Callable[[str, Mapping[str, int], Mapping[str, int]], object] = lambda name, before, after: None,
) -> Sequences:
    """The sequences with the rows that pass the options' filters on rows; what no row refers to any more is cut off.

    Args:
        barred: bool [items], items that no row may have as target or in its history; None bars none.
        note: told of each filter its name and how many rows there were before and after it, at the end how many users
            and items there were before and after what no row refers to was cut off.
    """
    fewest_train, fewest_eval = options.min_train_history or 0, options.min_eval_history or 0
    none_asked = options.min_target_rating is None and not (fewest_train or fewest_eval or options.known_items)
    if none_asked and barred is None:
        return sequences
    rows = sequences.rows

    def keep(kept: NDArray[np.bool_], name: str) -> Rows:
        note(name, {"rows": len(rows)}, {"rows": int(np.count_nonzero(kept))})
        return rows.take(kept)

    if barred is not None:
        rows = keep(~_meets(sequences.with_rows(rows), barred), f"--missing-titles {options.missing_titles}")
    if options.min_target_rating is not None:
        assert rows.rating is not None
        rows = keep(rows.rating >= options.min_target_rating, f"--min-target-rating {least(options.min_target_rating)}")
    of_train = rows.part == TRAIN
    rows = keep(~of_train | (rows.position >= fewest_train), f"--min-train-history {fewest_train}")
    of_train = rows.part == TRAIN
    rows = keep(of_train | (rows.position >= fewest_eval), f"--min-eval-history {fewest_eval}")
    if options.known_items:
        unknown = ~_trained_items(sequences.with_rows(rows), int(sequences.items.max()) + 1)
        rows = keep(~_meets(sequences.with_rows(rows), unknown), "--known-items")
    left = _cut(sequences.with_rows(rows))
    note("in no row that is left", _users_and_items(sequences), _users_and_items(left))
    return left


def _users_and_items(sequences: Sequences) -> dict[str, int]:
    """How many occur in the sequences."""
    return {"users": len(np.unique(sequences.user)), "items": len(np.unique(sequences.items))}


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
    rows, referenced = sequences.rows, _referenced(sequences)
    return Sequences(
        items=sequences.items[referenced],
        offsets=np.concatenate(([0], np.cumsum(length[kept]))),
        user=sequences.user[kept],
        rows=type(rows)(new_index[rows.sequence], rows.position, rows.part, rows.rating),
        times=None if sequences.times is None else sequences.times[referenced],
    )

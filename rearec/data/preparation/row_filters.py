"""Filters on rows (predictions) after the split: the histories keep what no row predicts any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rearec.data.preparation.removals import least
from rearec.data.preparation.splits import TRAIN, Rows, Sequences
from rearec.data.readers.options import PrepareOptions

__all__ = ["RowFilter"]


class RowFilter:
    """The options' filters on rows, for the sequences of some users at a time; what no row refers to is cut off.

    Args:
        barred: bool [items], items that no row may have as target or in its history; None bars none.
        num_items: the items that there are.

    Attributes:
        filters: whether anything is asked for; otherwise sequences stay as they are.
        looks_first: whether `look` has to see all sequences before any is filtered.
    """

    def __init__(self, options: PrepareOptions, barred: NDArray[np.bool_] | None, num_items: int) -> None:
        self.options = options
        self.barred = barred
        self.filters = (
            barred is not None
            or options.min_target_rating is not None
            or bool(options.min_train_history or options.min_eval_history or options.known_items)
        )
        self.looks_first = bool(options.known_items)
        self._trained = np.zeros(num_items, dtype=bool)
        self._before, self._after = Occurring(num_items), Occurring(num_items)
        # How many rows there were before and after each filter, by its name.
        self._rows: dict[str, tuple[int, int]] = {}

    def look(self, sequences: Sequences) -> None:
        """Remember which items are known from the train rows that are left."""
        rows = self._of_each_row(sequences, lambda kept, name: None)
        self._trained |= _trained_items(sequences.with_rows(rows), len(self._trained))

    def __call__(self, sequences: Sequences) -> Sequences:
        """The sequences with the rows that pass."""
        if not self.filters:
            return sequences
        rows = self._of_each_row(sequences, self._count)
        if self.looks_first:
            kept = ~_meets(sequences.with_rows(rows), ~self._trained)
            self._count(kept, "--known-items")
            rows = rows.take(kept)
        left = _cut(sequences.with_rows(rows))
        self._before.add(sequences)
        self._after.add(left)
        return left

    def report(self, note: Callable[[str, Mapping[str, int], Mapping[str, int]], object]) -> None:
        """Tell of each filter its name and how many rows there were before and after it, at the end how many users and
        items there were before and after what no row refers to was cut off."""
        for name, (before, after) in self._rows.items():
            note(name, {"rows": before}, {"rows": after})
        if self.filters:
            note("in no row that is left", self._before.counts, self._after.counts)

    def _count(self, kept: NDArray[np.bool_], name: str) -> None:
        before, after = self._rows.get(name, (0, 0))
        self._rows[name] = before + len(kept), after + int(np.count_nonzero(kept))

    def _of_each_row(self, sequences: Sequences, count: Callable[[NDArray[np.bool_], str], object]) -> Rows:
        """The rows that pass all filters but that on known items."""
        options, rows = self.options, sequences.rows

        def keep(kept: NDArray[np.bool_], name: str) -> Rows:
            count(kept, name)
            return rows.take(kept)

        if self.barred is not None:
            rows = keep(~_meets(sequences.with_rows(rows), self.barred), f"--missing-titles {options.missing_titles}")
        if options.min_target_rating is not None:
            assert rows.rating is not None
            least_rating = options.min_target_rating
            rows = keep(rows.rating >= least_rating, f"--min-target-rating {least(least_rating)}")
        fewest_train, fewest_eval = options.min_train_history or 0, options.min_eval_history or 0
        of_train = rows.part == TRAIN
        rows = keep(~of_train | (rows.position >= fewest_train), f"--min-train-history {fewest_train}")
        of_train = rows.part == TRAIN
        return keep(of_train | (rows.position >= fewest_eval), f"--min-eval-history {fewest_eval}")


class Occurring:
    """How many users and items occur in the sequences of some users at a time."""

    def __init__(self, num_items: int) -> None:
        self.users = 0
        self.items = np.zeros(num_items, dtype=bool)

    def add(self, sequences: Sequences) -> None:
        """Count further users."""
        self.users += len(np.unique(sequences.user))
        self.items[sequences.items] = True

    @property
    def counts(self) -> dict[str, int]:
        """By "users" and "items"."""
        return {"users": self.users, "items": int(np.count_nonzero(self.items))}


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

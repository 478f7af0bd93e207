"""From interactions, or rows with a history, to sequences and the rows of each split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges
from rearec.data.preparation.filters import time_order
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.errors import UserError

if TYPE_CHECKING:
    from rearec.data.tables.times import Times

__all__ = [
    "TRAIN",
    "Rows",
    "Sequences",
    "by_time_span",
    "by_timestamp",
    "carve_valid",
    "carve_valid_rows",
    "from_history_rows",
    "given",
    "leave_one_out",
]

TRAIN, VALID, TEST = 0, 1, 2
# Slots compared at a time when histories are matched: bounds the memory.
COMPARED_SLOTS = 1 << 22


@dataclass(frozen=True)
class Rows:
    """n predictions, sorted by sequence and position.

    Attributes:
        sequence, position: int64 [n].
        part: int8 [n], 0 train, 1 valid, 2 test.
        rating: float64 [n], the target's, nan where there is none; None without ratings.
    """

    sequence: NDArray[np.int64]
    position: NDArray[np.int64]
    part: NDArray[np.int8]
    rating: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.sequence)

    def take(self, kept: NDArray[np.bool_] | NDArray[np.int64]) -> Rows:
        """The kept rows, given as a mask or as indices."""
        rating = None if self.rating is None else self.rating[kept]
        return Rows(self.sequence[kept], self.position[kept], self.part[kept], rating)


@dataclass(frozen=True)
class Sequences:
    """Sequences with their rows, of all users or of some; the ids are those of the source and may be unused.

    Attributes:
        items: int32 [total]; offsets: int64 [sequences + 1]; user: int32 [sequences], non-decreasing.
        rows: the predictions of all three splits.
        times: int64 or float64 [total], when each of the items was; None where the source does not say.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    user: NDArray[np.int32]
    rows: Rows
    times: NDArray[np.int64] | NDArray[np.float64] | None = None

    def with_rows(self, rows: Rows) -> Sequences:
        """The same sequences with other rows."""
        return replace(self, rows=rows)


def leave_one_out(interactions: Interactions) -> Sequences:
    """Each user's last item is his test row, the one before his valid row; with fewer than 3 items all is train."""
    order = time_order(interactions)
    user, offsets = _by_user(interactions.user[:][order])
    length = np.diff(offsets)
    to_end = np.repeat(offsets[1:], length) - np.arange(len(order))
    part = np.select([to_end == 1, to_end == 2], [TEST, VALID], TRAIN)
    part[np.repeat(length < 3, length)] = TRAIN
    return _sequences(interactions, order, user, offsets, part.astype(np.int8))


def by_timestamp(interactions: Interactions, valid_from: str, test_from: str) -> Sequences:
    """Valid rows are those from ``valid_from`` on, test rows those from ``test_from`` on, train rows all earlier ones.

    Args:
        valid_from, test_from: in the unit of the timestamps, or a date where they are dates.

    Raises:
        UserError: there are no timestamps, or a threshold is no timestamp, or they are in the wrong order.
    """
    from rearec.data.tables.times import parse_threshold  # here: the other splits need no polars

    times = _times_of(interactions)
    valid = parse_threshold(valid_from, times.unit, "--valid-from")
    test = parse_threshold(test_from, times.unit, "--test-from")
    if valid >= test:
        raise UserError(f"--valid-from {valid_from} must be before --test-from {test_from}")
    order = time_order(interactions)
    values = times.values[:][order]
    user, offsets = _by_user(interactions.user[:][order])
    part = (values >= valid).astype(np.int8) + (values >= test).astype(np.int8)
    return _sequences(interactions, order, user, offsets, part)


def _times_of(interactions: Interactions) -> Times:
    if interactions.times is None:
        raise UserError(
            f"{interactions.place.files[0]}: a split by timestamp is asked for, but there are no timestamps"
        )
    return interactions.times


def by_time_span(
    interactions: Interactions, valid_from: str, test_from: str, span: tuple[Any, Any] | None = None
) -> Sequences:
    """Valid rows are those after the share ``valid_from`` of the time from first to last, test rows those after more.

    What falls on a threshold is before it, as in the official code; the timestamps are compared exactly.

    Args:
        span: the first time and the last; None: of these interactions.

    Raises:
        UserError: there are no timestamps, or the thresholds are no ascending shares of 1.
    """
    times = _times_of(interactions)
    valid, test = _share(valid_from, "--valid-from"), _share(test_from, "--test-from")
    if valid >= test:
        raise UserError(f"--valid-from {valid_from} must be less than --test-from {test_from}")
    first, last = (Fraction(value.item()) for value in (span or times.span()))
    thresholds = [first + share * (last - first) for share in (valid, test)]
    if np.issubdtype(times.values.dtype, np.integer):
        # Of whole numbers, those above a threshold are those above its whole part.
        limits: list[int] | list[float] = [math.floor(threshold) for threshold in thresholds]
    else:
        limits = [float(threshold) for threshold in thresholds]
    order = time_order(interactions)
    values = times.values[:][order]
    user, offsets = _by_user(interactions.user[:][order])
    part = (values > limits[0]).astype(np.int8) + (values > limits[1]).astype(np.int8)
    return _sequences(interactions, order, user, offsets, part)


def _share(text: str, option: str) -> Fraction:
    try:
        share = Fraction(text.strip())
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise UserError(f"{option} is {text!r}; of the split 'time-span' it is a share between 0 and 1, such as 0.8")
    return share


def given(interactions: Interactions) -> Sequences:
    """The rows of each split are those of its file; a user's history is all he did before, whatever the file."""
    assert interactions.part is not None
    order = time_order(interactions)
    user, offsets = _by_user(interactions.user[:][order])
    return _sequences(interactions, order, user, offsets, interactions.part[:][order])


def carve_valid(interactions: Interactions) -> Interactions:
    """Of a split into train and test, each user's last train interaction is for validation if he has another one."""
    assert interactions.part is not None
    order = time_order(interactions)
    part, user = interactions.part[:], interactions.user[:]
    train = order[part[order] == TRAIN]
    return replace(interactions, part=_with_last_as_valid(part, train, user[train]))


def carve_valid_rows(source: HistoryRows) -> HistoryRows:
    """The same of rows with a history: each user's train row with the longest."""
    train = np.flatnonzero(source.part == TRAIN)
    train = train[np.lexsort((np.diff(source.offsets)[train], source.user[train]))]
    return replace(source, part=_with_last_as_valid(source.part, train, source.user[train]))


def _with_last_as_valid(part: NDArray[np.int8], train: NDArray[np.int64], user: NDArray[np.int32]) -> NDArray[np.int8]:
    """``part`` with the last of each user's ``train`` rows, which are sorted by user, as valid; not an only one."""
    last = np.flatnonzero(np.diff(user, append=-1))
    several = np.diff(last, prepend=-1) > 1
    result = part.copy()
    result[train[last[several]]] = VALID
    return result


def _by_user(user: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Of interactions sorted by user: the users, and the offsets of their sequences."""
    first = np.flatnonzero(np.diff(user, prepend=-1))
    return user[first], np.append(first, len(user))


def _sequences(
    interactions: Interactions,
    order: NDArray[np.int64],
    user: NDArray[np.int32],
    offsets: NDArray[np.int64],
    part: NDArray[np.int8],
) -> Sequences:
    length = np.diff(offsets)
    sequence = np.repeat(np.arange(len(user)), length)
    position = np.arange(len(order)) - offsets[sequence]
    rating = None if interactions.rating is None else interactions.rating[:][order]
    rows = Rows(sequence, position, part, rating)
    times = None if interactions.times is None else interactions.times.values[:][order]
    return Sequences(interactions.item[:][order], offsets, user, _drop_untrainable(rows), times)


def _drop_untrainable(rows: Rows) -> Rows:
    """Without train rows that have no history: nothing can be learnt from them."""
    return rows.take((rows.position > 0) | (rows.part != TRAIN))


def from_history_rows(source: HistoryRows) -> Sequences:
    """Rows whose history and target begin their user's longest row share its sequence; others get one of their own."""
    length = np.diff(source.offsets)
    by_length = np.lexsort((-length, source.user))
    longest = np.empty(len(source.user_ids), dtype=np.int64)
    first = by_length[np.flatnonzero(np.diff(source.user[by_length], prepend=-1))]
    longest[source.user[first]] = first
    main = longest[source.user]
    shares = _begins(source, main, length)
    own = np.flatnonzero(~shares)

    origin = np.concatenate((np.unique(main), own))
    further = np.repeat([False, True], [len(origin) - len(own), len(own)])
    arranged = np.lexsort((origin, further, source.user[origin]))
    origin = origin[arranged]
    sequence_of_origin = np.empty(len(source), dtype=np.int64)
    sequence_of_origin[origin] = np.arange(len(origin))
    sequence = sequence_of_origin[np.where(shares, main, np.arange(len(source)))]

    rows = Rows(sequence, length - 1, source.part, source.rating)
    rows = _drop_untrainable(rows.take(np.lexsort((rows.position, rows.sequence))))
    offsets = np.concatenate(([0], np.cumsum(length[origin])))
    items = source.items[ranges(source.offsets[:-1][origin], length[origin])]
    return Sequences(items, offsets, source.user[origin], rows)


def _begins(source: HistoryRows, other: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [n]: the items of row r are the first items of the row ``other[r]``, which is no shorter."""
    begins = np.empty(len(source), dtype=bool)
    low = 0
    while low < len(source):
        limit = source.offsets[low] + COMPARED_SLOTS
        high = max(low + 1, int(np.searchsorted(source.offsets, limit, side="right")) - 1)
        first = source.offsets[low]
        mine = source.items[first : source.offsets[high]]
        theirs = source.items[ranges(source.offsets[other[low:high]], length[low:high])]
        begins[low:high] = np.logical_and.reduceat(mine == theirs, source.offsets[low:high] - first)
        low = high
    return begins

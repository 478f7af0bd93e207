"""Filters on interactions, all of them off unless asked for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rearec.data.readers.interactions import HistoryRows, Interactions, Place
from rearec.data.tables.arrays import BLOCK_ROWS, Array, Scratch, blocks, count_codes
from rearec.errors import UserError

__all__ = [
    "check_rating",
    "core",
    "first_occurrences",
    "minimum_rating",
    "refuse_duplicates",
    "repeats",
    "same_rows",
    "time_order",
]


def minimum_rating(interactions: Interactions, threshold: float) -> NDArray[np.bool_]:
    """bool [n]: the rating is at least ``threshold``; `check_rating` comes before."""
    assert interactions.rating is not None
    return interactions.rating[:] >= threshold


def check_rating(source: Interactions | HistoryRows) -> None:
    """UserError where there is no rating column, or a rating is missing; names the first such row."""
    if source.rating is None:
        raise UserError(f"{source.place.files[0]}: a minimum rating is asked for, but there is no rating column")
    missing = _first(source.place, (np.isnan(source.rating[part]) for part in blocks(len(source))))
    if missing is not None:
        raise UserError(f"{source.place.name(missing)}: a minimum rating is asked for, but the row has no rating")


def _first(place: Place, marks: Iterable[NDArray[np.bool_]]) -> int | None:
    """Of the rows that are marked, in slices from the first row on, that which was read first; None without any."""
    start = 0
    found: list[tuple[int, int]] = []
    for marked in marks:
        index = np.flatnonzero(marked)
        if len(index):
            read = place.read_as(slice(start, start + len(marked)))[index]
            first = int(np.argmin(read))
            found.append((int(read[first]), start + int(index[first])))
        start += len(marked)
    return min(found)[1] if found else None


def time_order(interactions: Interactions) -> NDArray[np.int64]:
    """int64 [n], the interactions by user, then time; what happened at one time keeps the order of the source."""
    if interactions.in_order:
        return np.arange(len(interactions))
    if interactions.times is None:
        return np.argsort(interactions.user[:], kind="stable")
    return np.lexsort((*interactions.times.sort_keys(), interactions.user[:]))


def first_occurrences(interactions: Interactions) -> NDArray[np.bool_]:
    """bool [n]: no earlier interaction in time is of the same user and item."""
    order = time_order(interactions)
    kept = np.ones(len(interactions), dtype=bool)
    kept[order[repeats(interactions.user[:][order], interactions.item[:][order])]] = False
    return kept


def refuse_duplicates(interactions: Interactions, rows: int = BLOCK_ROWS) -> None:
    """UserError where a pair of user and item occurs twice in interactions in order; names the row of the second."""
    parts = (interactions.part_of(part) for part in interactions.user_blocks(rows))
    again = _first(interactions.place, (~first_occurrences(part) for part in parts))
    if again is not None:
        one = interactions.part_of(slice(again, again + 1))
        pair = f"user {one.user_ids[one.user[:][0]]!r} and item {one.item_ids[one.item[:][0]]!r}"
        raise UserError(f"{one.place.name(0)}: {pair} occur together more than once")


def repeats(user: NDArray[np.int32], item: NDArray[np.int32]) -> NDArray[np.bool_]:
    """bool [n]: the same pair occurs earlier."""
    key = user.astype(np.int64) << 32 | item
    repeated = np.ones(len(key), dtype=bool)
    repeated[np.unique(key, return_index=True)[1]] = False
    return repeated


def same_rows(rows: HistoryRows, mode: str) -> HistoryRows:
    """Rows that are equal in user, history, target and part: all kept, one of them kept, or refused.

    Raises:
        UserError: ``mode`` is "error" and a row occurs twice; names the second.
    """
    if mode == "keep":
        return rows
    flat = rows.items.tobytes()
    seen: set[tuple[int, int, bytes]] = set()
    kept: list[int] = []
    for index, (user, part) in enumerate(zip(rows.user.tolist(), rows.part.tolist(), strict=True)):
        key = (user, part, flat[4 * rows.offsets[index] : 4 * rows.offsets[index + 1]])
        if key not in seen:
            seen.add(key)
            kept.append(index)
        elif mode == "error":
            raise UserError(f"{rows.place.name(index)}: the same user, history and item as in an earlier row")
    return rows.take(np.asarray(kept, dtype=np.int64))


def core(interactions: Interactions, user_core: int, item_core: int, scratch: Scratch) -> tuple[Array, int]:
    """Which interactions are left where users and items with too few of them are dropped until all have enough.

    Args:
        user_core, item_core: fewest interactions of a user and of an item; 0 or 1 keeps all.

    Returns:
        bool [n], and how many of them are true.
    """
    users, items, rows = len(interactions.user_ids), len(interactions.item_ids), scratch.block_rows
    kept = scratch.array(len(interactions), bool)
    for part in blocks(len(kept), rows):
        kept[part] = np.ones(part.stop - part.start, dtype=bool)
    left = len(kept)
    while True:
        user_stays = count_codes(interactions.user, users, kept, rows) >= user_core
        item_stays = count_codes(interactions.item, items, kept, rows) >= item_core
        before, left = left, 0
        for part in blocks(len(kept), rows):
            enough = kept[part] & user_stays[interactions.user[part]] & item_stays[interactions.item[part]]
            kept[part] = enough
            left += int(np.count_nonzero(enough))
        if left == before:
            return kept, left

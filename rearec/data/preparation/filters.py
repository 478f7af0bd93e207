"""Filters on interactions, all of them off unless asked for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.errors import UserError

__all__ = ["checked_rating", "core", "filter_duplicates", "minimum_rating", "repeats", "same_rows", "time_order"]


def minimum_rating(interactions: Interactions, threshold: float) -> Interactions:
    """The interactions with a rating of at least ``threshold``.

    Raises:
        UserError: there is no rating column, or an interaction has no rating.
    """
    return interactions.take(checked_rating(interactions) >= threshold)


def checked_rating(source: Interactions | HistoryRows) -> NDArray[np.float64]:
    """float64 [n], the ratings, none of them nan.

    Raises:
        UserError: there is no rating column, or a rating is missing.
    """
    rating = source.rating
    if rating is None:
        raise UserError(f"{source.place.files[0]}: a minimum rating is asked for, but there is no rating column")
    missing = np.flatnonzero(np.isnan(rating))
    if len(missing):
        raise UserError(f"{source.place.name(missing[0])}: a minimum rating is asked for, but the row has no rating")
    return rating


def time_order(interactions: Interactions) -> NDArray[np.int64]:
    """int64 [n], the interactions by user, then time; what happened at one time keeps the order of the source."""
    if interactions.times is None:
        return np.argsort(interactions.user, kind="stable")
    return np.lexsort((*interactions.times.sort_keys(), interactions.user))


def filter_duplicates(interactions: Interactions, mode: str) -> Interactions:
    """Repeated (user, item) pairs: all kept, only the earliest in time kept ("first"), or refused ("error").

    Raises:
        UserError: ``mode`` is "error" and a pair occurs twice; names the row of the second.
    """
    if mode == "keep":
        return interactions
    order = time_order(interactions)
    repeated = np.sort(order[repeats(interactions.user[order], interactions.item[order])])
    if mode == "error" and len(repeated):
        user, item = interactions.user[repeated[0]], interactions.item[repeated[0]]
        pair = f"user {interactions.user_ids[user]!r} and item {interactions.item_ids[item]!r}"
        raise UserError(f"{interactions.place.name(repeated[0])}: {pair} occur together more than once")
    kept = np.ones(len(interactions), dtype=bool)
    kept[repeated] = False
    return interactions.take(kept)


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


def core(interactions: Interactions, user_core: int, item_core: int) -> Interactions:
    """Drop users and items with too few interactions, again and again until all that are left have enough.

    Args:
        user_core, item_core: fewest interactions of a user and of an item; 0 or 1 keeps all.
    """
    kept = np.arange(len(interactions))
    while True:
        user, item = interactions.user[kept], interactions.item[kept]
        enough = (np.bincount(user)[user] >= user_core) & (np.bincount(item)[item] >= item_core)
        if enough.all():
            return interactions.take(kept)
        kept = kept[enough]

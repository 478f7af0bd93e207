"""What each filter removed: counted where it runs, said at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from rearec.data.preparation import filters
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.tables.arrays import Array, Scratch, count_codes

__all__ = ["Removals", "core_name", "counts_of", "largest_core", "least"]

Counts = Mapping[str, int]


class Removals:
    """The filters that removed something, in the order in which they ran.

    Attributes:
        steps: for each its name under "filter", and by users, items, interactions or rows how many it "removed" and
            "of" how many.
    """

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def note(self, name: str, before: Counts, after: Counts) -> Counts:
        """Remember a filter, unless it removed nothing; returns ``after``."""
        removed = {what: count - after[what] for what, count in before.items() if count > after[what]}
        if removed:
            self.steps.append({"filter": name, "removed": removed, "of": {what: before[what] for what in removed}})
        return after

    def __str__(self) -> str:
        """'--core 5: 2,106 of 2,500 users, 9,000 of 12,000 interactions; ...', empty where nothing was removed."""
        return "; ".join(f"{step['filter']}: {_counted(step)}" for step in self.steps)


def _counted(step: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} of {step['of'][what]:,} {what}" for what, count in step["removed"].items())


def counts_of(source: Interactions | HistoryRows) -> dict[str, int]:
    """Users, items and interactions, or of rows with a history rows."""
    of_interactions = isinstance(source, Interactions)
    items = source.item if isinstance(source, Interactions) else source.items
    return {
        "users": _distinct(source.user, len(source.user_ids)),
        "items": _distinct(items, len(source.item_ids)),
        "interactions" if of_interactions else "rows": len(source),
    }


def _distinct(codes: Array, count: int) -> int:
    return int(np.count_nonzero(count_codes(codes, count)))


def core_name(user_core: int, item_core: int) -> str:
    """The core as an option."""
    if user_core == item_core:
        return f"--core {user_core}"
    named = (("--user-core", user_core), ("--item-core", item_core))
    return " ".join(f"{name} {fewest}" for name, fewest in named if fewest)


def least(threshold: float) -> str:
    """A threshold in words: the float that follows 3 is 'above 3'."""
    whole = math.floor(threshold)
    return f"above {whole}" if threshold == math.nextafter(whole, math.inf) else f"{threshold:g}"


def largest_core(interactions: Interactions, user_core: int, item_core: int, scratch: Scratch) -> int:
    """The largest core, no larger than those given, that leaves some of the interactions; at least 1 if there are any.

    Args:
        user_core, item_core: those that leave nothing; where one of them is 0 it stays so.
    """

    def leaves_some(fewest: int) -> bool:
        return filters.core(interactions, min(user_core, fewest), min(item_core, fewest), scratch)[1] > 0

    low, high = 1, max(user_core, item_core)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if leaves_some(middle) else (low, middle)
    return low

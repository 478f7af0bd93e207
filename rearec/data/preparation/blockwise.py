"""The split, and the filters on rows, of some users at a time; what is known of all of them at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from rearec.data.preparation import splits
from rearec.data.preparation.plan import Plan
from rearec.data.preparation.splits import TRAIN, Sequences
from rearec.data.readers.interactions import HistoryRows, Interactions
from rearec.data.words import SPLIT_NAMES
from rearec.errors import UserError

__all__ = ["Tally", "check_rows", "split_blocks"]


def split_blocks(source: Interactions | HistoryRows, plan: Plan, rows: int) -> Callable[[], Iterator[Sequences]]:
    """Makes the sequences of all users, of some at a time, each time it is called.

    Args:
        source: interactions in order, or rows with a history, which are one block.
        rows: most interactions of a block, unless one user has more.

    Raises:
        UserError: the split needs what there is not, also of the call.
    """
    carves = plan.options.carve_valid
    if isinstance(source, HistoryRows):
        histories = splits.from_history_rows(splits.carve_valid_rows(source) if carves else source)
        return lambda: iter([histories])
    # Of a split by shares of the time, the time of all.
    span = source.times.span() if plan.split == "time-span" and source.times is not None else None

    def blocks() -> Iterator[Sequences]:
        for part in source.user_blocks(rows):
            yield _split(source.part_of(part), plan, span)

    return blocks


def _split(some: Interactions, plan: Plan, span: tuple[Any, Any] | None) -> Sequences:
    if plan.split == "given":
        return splits.given(splits.carve_valid(some) if plan.options.carve_valid else some)
    if plan.limits is None:
        return splits.leave_one_out(some)
    if plan.split == "timestamp":
        return splits.by_timestamp(some, *plan.limits)
    return splits.by_time_span(some, *plan.limits, span)


class Tally:
    """What is counted in the sequences of some users at a time.

    Attributes:
        rows: int64 [3], the rows of train, valid and test.
        longest: the most items of a sequence.
        users, without, beyond: how many users there are, are in no row, are in rows of valid or test.
    """

    def __init__(self) -> None:
        self.rows = np.zeros(len(SPLIT_NAMES), dtype=np.int64)
        self.longest = self.users = self.without = self.beyond = 0

    def add(self, sequences: Sequences) -> None:
        """Count further users."""
        rows, user = sequences.rows, sequences.user
        self.rows += np.bincount(rows.part, minlength=len(SPLIT_NAMES))
        self.longest = max(self.longest, int(np.diff(sequences.offsets).max(initial=0)))
        users = len(np.unique(user))
        self.users += users
        self.without += users - len(np.unique(user[rows.sequence]))
        self.beyond += len(np.unique(user[rows.sequence[rows.part != TRAIN]]))

    def unused_users(self, split: str) -> str:
        """Which users have too few interactions for a row, or for one beyond training; empty: none."""
        said = [f"{self.without:,} of {self.users:,} have one interaction and are in no row"] if self.without else []
        if split == "leave-one-out":
            alone = self.users - self.without - self.beyond
            said += [f"{alone:,} of {self.users:,} have two interactions and are in train rows alone"] if alone else []
        return "; ".join(said)


def check_rows(tally: Tally, what: str, hint: str = "", removed: str = "") -> None:
    """UserError where train, valid or test have no rows.

    Args:
        what: the beginning of the message; hint: what follows it.
        removed: what the filters removed before.
    """
    if tally.rows.min() == 0:
        got = ", ".join(f"{name} {count}" for name, count in zip(SPLIT_NAMES, tally.rows, strict=True))
        removed = removed and f"; removed: {removed}"
        raise UserError(f"{what} no {SPLIT_NAMES[int(tally.rows.argmin())]} rows (rows: {got}){hint}{removed}")

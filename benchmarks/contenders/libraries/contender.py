"""The form of a contender's module: a function ``make(task, sequences)`` that returns a `Contender`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from contenders.libraries.clock import StepClock
from contenders.libraries.task import IntArray, Sequences, Task


class Contender(Protocol):
    """A library, its data prepared."""

    versions: Sequence[str]
    """Distributions whose versions the report names."""

    def train(self, epochs: int, clock: StepClock) -> dict[str, Any]:
        """Trains so many epochs, or until the clock has enough; tells it of every step. What is worth a note."""
        ...

    def request(self, users: IntArray, top: int) -> Callable[[], Any]:
        """What one calls for the best items of these users after their histories, items of the history included.

        All that a user of the library has at hand already is made here.
        """
        ...

    def lists(self, answer: Any, users: IntArray, top: int) -> IntArray:
        """int64 [users, top]: what the call returned, best first, as our ids; -1 where there is no more."""
        ...


Make = Callable[[Task, Sequences], Contender]


def lists_of(rows: Sequence[int], items: Sequence[int], users: IntArray, top: int) -> IntArray:
    """Lists from the long form in which some libraries answer: user and item of each line, a user's best item first."""
    place = {int(user): row for row, user in enumerate(users)}
    filled = np.zeros(len(users), dtype=np.int64)
    result = np.full((len(users), top), -1, dtype=np.int64)
    for user, item in zip(rows, items, strict=True):
        row = place[int(user)]
        if filled[row] < top:
            result[row, filled[row]] = item
            filled[row] += 1
    return result

"""The form of a contender's module: a function ``make(task, sequences)`` that returns a `Contender`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from contenders.libraries.clock import StepClock
from contenders.libraries.task import IntArray, Sequences, Split, Task


class Epochs(Protocol):
    """Is told of the epochs of a training (`contenders.libraries.watch.Watch`)."""

    def trained(self) -> None:
        """An epoch's training is over, and its validation begins."""
        ...

    def ended(self, valid: float | None = None) -> bool:
        """An epoch has ended, with this validation NDCG@20 or one to be measured. Whether the training is to end."""
        ...


class Contender(Protocol):
    """A library, its data prepared."""

    versions: Sequence[str]
    """Distributions whose versions the report names."""

    def train(self, epochs: int, clock: StepClock, watch: Epochs | None = None) -> dict[str, Any]:
        """Trains so many epochs, or until the clock has enough or the watch says so; tells them of every step and every
        epoch. What is worth a note."""
        ...

    def module(self) -> Any:
        """The torch module that is trained, whose best weights a watch keeps; None where the library does it."""
        ...

    def request(self, users: IntArray, top: int, split: Split = "test") -> Callable[[], Any]:
        """What one calls for the best items of these users after their histories, items of the history included.

        All that a user of the library has at hand already is made here.
        """
        ...

    def lists(self, answer: Any, users: IntArray, top: int) -> IntArray:
        """int64 [users, top]: what the call returned, best first, as our ids; -1 where there is no more."""
        ...

    def variants(self) -> Mapping[str, Contender]:
        """By what is added to the name: itself, and what else answers after one training."""
        return {"": self}


Make = Callable[[Task, Sequences], Contender]


def lists_of(rows: Sequence[int], items: Sequence[int], users: IntArray, top: int) -> IntArray:
    """Lists from the long form in which some libraries answer: user and item of each line, a user's best item first."""
    order = np.argsort(users, kind="stable")
    asked, best = np.asarray(rows, dtype=np.int64), np.asarray(items, dtype=np.int64)
    row = order[np.searchsorted(users, asked, sorter=order)]
    grouped = np.argsort(row, kind="stable")
    row, best = row[grouped], best[grouped]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    result = np.full((len(users), top), -1, dtype=np.int64)
    kept = place < top
    result[row[kept], place[kept]] = best[kept]
    return result


def best_lists(contender: Contender, sequences: Sequences, split: Split, top: int) -> IntArray:
    """int64 [users, W]: lists long enough that `top` items are left when those of the history are taken out.

    Users who need about as many are asked for together; -1 fills the shorter ones.
    """
    users = np.arange(sequences.num_users)
    seen = np.array([len(np.unique(sequences.history(user, split))) for user in users])
    needed = np.minimum(2 ** np.ceil(np.log2(top + seen)).astype(np.int64), sequences.num_items)
    result = np.full((len(users), needed.max()), -1, dtype=np.int64)
    for width in np.unique(needed).tolist():
        chosen = users[needed == width]
        result[chosen, :width] = contender.lists(contender.request(chosen, width, split)(), chosen, width)
    return result

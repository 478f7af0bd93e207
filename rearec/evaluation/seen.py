"""Seen items: whether the items of a row's history stay among those that its target is ranked against.

The history of a row is all of its sequence before the target, however much of it the model reads: what
``Recommender.recommend(..., exclude_seen=True)`` leaves out. A target that is in its own history stays a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import ranges

if TYPE_CHECKING:
    from rearec.data.dataset import SequenceDataset
    from rearec.data.words import SplitName

__all__ = ["RowHistories", "SeenItems", "SeenName", "repeated_targets", "seen_items", "seen_name", "seen_words"]

SeenName = Literal["kept", "excluded"]
# The share of rows that ask for an item of their history from which on seen items are worth recommending again.
REPEATED_SHARE = 0.01

# Up to so many comparisons for each item of the data they are quicker than sorting.
COMPARED = 4

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class SeenItems:
    """Whether seen items are left out of the ranking (exclude), and why (reason, in words).

    Examples:
        >>> from rearec.evaluation import SeenItems
        >>> print(SeenItems(exclude=True, reason="as asked for"))
        seen items excluded: as asked for
    """

    exclude: bool
    reason: str

    @property
    def name(self) -> SeenName:
        """As in every json and csv."""
        return seen_name(self.exclude)

    def __str__(self) -> str:
        return f"{seen_words(self.name)}: {self.reason}"


def seen_name(exclude: bool) -> SeenName:
    """ "excluded" or "kept"."""
    return "excluded" if exclude else "kept"


def seen_words(name: SeenName) -> str:
    """As above every table: "seen items kept" or "seen items excluded"."""
    return f"seen items {name}"


def seen_items(dataset: SequenceDataset, exclude: bool | None = None, *, of_run: bool | None = None) -> SeenItems:
    """Decide whether seen items are left out: as asked for, else as the run was trained, else as the data says.

    Where at least 1 % of the validation rows (of the training rows, where there are none) ask for an item of their own
    history, seen items stay; elsewhere no row asks for them, and they are left out as a shop does.

    Args:
        dataset: the data that says.
        exclude: what was asked for; None for nothing.
        of_run: what the run was trained with; None where there is no run, or it does not say.

    Examples:
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.evaluation import seen_items
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> seen_items(dataset, exclude=True).name
        'excluded'
        >>> seen_items(dataset).exclude  # as its validation rows say
        False
    """
    if exclude is not None:
        return SeenItems(exclude, "as asked for")
    if of_run is not None:
        return SeenItems(of_run, "as the run was trained")
    split: SplitName = "valid" if len(dataset.rows("valid")) else "train"
    rows = len(dataset.rows(split))
    if not rows:
        return SeenItems(False, "there are no rows that say otherwise")
    count = sum(int(_repeated_in_part(part, split).sum()) for part in dataset.parts())
    words = {"valid": "validation", "train": "training"}[split]
    reason = f"{count:,} of {rows:,} {words} rows ask for an item of their history ({count / rows:.2%})"
    return SeenItems(count / rows < REPEATED_SHARE, reason)


def repeated_targets(dataset: SequenceDataset, split: SplitName) -> NDArray[np.bool_]:
    """bool [rows]: the row's target is in its history."""
    found = [_repeated_in_part(part, split) for part in dataset.parts()]
    return np.concatenate(found) if found else np.zeros(0, dtype=bool)


def _repeated_in_part(dataset: SequenceDataset, split: SplitName) -> NDArray[np.bool_]:
    rows = np.asarray(dataset.rows(split)).astype(np.int64)
    offsets = np.asarray(dataset.offsets)
    if rows[:, 1].sum() <= COMPARED * len(dataset.items):
        return _repeated_by_comparing(rows, offsets, np.asarray(dataset.items))
    sequences, place = np.unique(rows[:, 0], return_inverse=True)
    counts = offsets[sequences + 1] - offsets[sequences]
    items = np.asarray(dataset.items)[ranges(offsets[sequences], counts)].astype(np.int64)
    # Where each item of a sequence stands first.
    keys = np.repeat(np.arange(len(sequences)), counts) * dataset.num_items + items
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    slot = (np.cumsum(counts) - counts)[place] + rows[:, 1]
    return first[inverse[slot]] < slot


def _repeated_by_comparing(rows: IntArray, offsets: IntArray, items: NDArray[np.int32]) -> NDArray[np.bool_]:
    """As above, with each row's target against every item of its history."""
    start, position = offsets[rows[:, 0]], rows[:, 1]
    seen = items[ranges(start, position)] == np.repeat(items[start + position], position)
    found = np.zeros(len(rows), dtype=bool)
    found[np.searchsorted(np.cumsum(position), np.flatnonzero(seen), side="right")] = True
    return found


class RowHistories:
    """The histories of the rows of a split, as the retrieval kernels take what they are to leave out."""

    def __init__(self, dataset: SequenceDataset, split: SplitName) -> None:
        self._items, self._offsets, self._pairs = dataset.items, dataset.offsets, dataset.rows(split)

    def lengths(self, rows: IntArray) -> IntArray:
        """int64 [n], how many items those of ``rows`` have."""
        return self._pairs[rows, 1].astype(np.int64)

    def __call__(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """(offsets int64 [n + 1], items int64): those of rows[i] are ``items[offsets[i]:offsets[i + 1]]``."""
        sequence, counts = self._pairs[rows].astype(np.int64).T
        items = np.asarray(self._items[ranges(self._offsets[sequence], counts)]).astype(np.int64)
        return np.concatenate(([0], np.cumsum(counts))), items

"""The last step of a preparation: a dataset of the sequences that are left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.dataset import SequenceDataset
from rearec.data.preparation.splits import Sequences
from rearec.data.preparation.statistics import describe
from rearec.data.tables.arrays import Array, Scratch, StoredArray, blocks
from rearec.data.words import SPLIT_NAMES

__all__ = ["Assembly", "assemble"]


def assemble(
    sequences: Sequences,
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    *,
    title_of: Mapping[str, str] | None = None,
    source: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> SequenceDataset:
    """A dataset in memory: users and items that occur in no sequence are left out, the order of the others stays."""
    assembly = Assembly(len(item_ids), Scratch())
    assembly.add(sequences)
    return assembly.dataset(user_ids, item_ids, title_of=title_of, source=source, options=options)


class Assembly:
    """A dataset made of the sequences of some users at a time, which come in the order of the users.

    Args:
        num_items: the items that there are, of which some may occur in no sequence.
        scratch: where the arrays are; files are mapped into memory at the end.
    """

    def __init__(self, num_items: int, scratch: Scratch) -> None:
        self._scratch = scratch
        self._occurs = np.zeros(num_items, dtype=bool)
        self._items = scratch.column(np.int32)
        self._lengths: list[NDArray[np.int64]] = []
        self._users: list[NDArray[np.int32]] = []
        self._rows = {name: scratch.column(np.int32, width=2) for name in SPLIT_NAMES}
        self._times = scratch.column(np.int64)
        self._timed = True
        self._sequences = 0

    def add(self, sequences: Sequences) -> None:
        """Further sequences."""
        rows = sequences.rows
        pairs = np.stack((rows.sequence + self._sequences, rows.position), axis=1).astype(np.int32)
        for part, name in enumerate(SPLIT_NAMES):
            self._rows[name].append(pairs[rows.part == part])
        self._occurs[sequences.items] = True
        self._items.append(sequences.items)
        self._lengths.append(np.diff(sequences.offsets))
        self._users.append(sequences.user)
        self._timed &= sequences.times is not None
        if sequences.times is not None:
            self._times.append(sequences.times)
        self._sequences += len(sequences.user)

    def dataset(
        self,
        user_ids: Sequence[str],
        item_ids: Sequence[str],
        *,
        title_of: Mapping[str, str] | None = None,
        source: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> SequenceDataset:
        """The dataset of all that was added: users and items without a sequence are left out, the others stay in order.

        Args:
            user_ids, item_ids: the token of each number in the sequences.
            title_of: the title of each item that has one; None without titles.
        """
        users = np.concatenate(self._users) if self._users else np.empty(0, dtype=np.int32)
        lengths = np.concatenate(self._lengths) if self._lengths else np.empty(0, dtype=np.int64)
        used = np.bincount(users, minlength=len(user_ids)) > 0
        kept_items = [item_ids[index] for index in np.flatnonzero(self._occurs).tolist()]
        items = self._items.done()
        new_item = (np.cumsum(self._occurs) - 1).astype(np.int32)
        for part in blocks(len(items), self._scratch.block_rows):
            items[part] = new_item[items[part]]
        dataset = SequenceDataset(
            items=_mapped(items),
            offsets=np.concatenate(([0], np.cumsum(lengths))).astype(np.int64),
            sequence_user=(np.cumsum(used) - 1)[users].astype(np.int32),
            split_rows={name: _mapped(rows.done()) for name, rows in self._rows.items()},
            item_ids=kept_items,
            user_ids=[user_ids[index] for index in np.flatnonzero(used).tolist()],
            statistics={},
            source=source or {},
            options=options or {},
            item_titles=None if title_of is None else [title_of.get(token) or None for token in kept_items],
        )
        dataset.statistics.update(describe(dataset, self._times.done() if self._timed else None))
        return dataset


def _mapped(array: Array) -> NDArray[Any]:
    return array.mapped() if isinstance(array, StoredArray) else array

"""Sequences of items, and the predictions to make in them."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rearec.data.tables.arrays import BLOCK_ROWS, in_blocks, release
from rearec.data.words import SPLIT_NAMES, SplitName
from rearec.report.notebook import html_table

__all__ = ["SequenceDataset", "ranges"]


@dataclass(frozen=True, eq=False)
class SequenceDataset:
    """Sequences of items and the rows (predictions) of each split.

    A sequence is a user's items in time order. A row is a pair (sequence, position): its target is the item at that
    position, its history all items of the sequence before it. Items and users are dense ids in order of their first
    appearance in the source; ``item_ids`` and ``user_ids`` give the source's own tokens.

    Attributes:
        items: int32 [total], the items of all sequences, one after the other.
        offsets: int64 [sequences + 1], sequence s is ``items[offsets[s] : offsets[s + 1]]``.
        sequence_user: int32 [sequences], non-decreasing. A user has one sequence, and a further one for each row of a
            given split whose history contradicts it.
        split_rows: for "train", "valid" and "test" an int32 [rows, 2] of (sequence, position), sorted. Rows with an
            empty history (position 0) occur in "valid" and "test" only.
        item_ids, user_ids: the token of each dense id.
        statistics: counts like Table 1 of the paper (users, items, interactions, average_length, density, rows).
        source, options: what the dataset was made of, and how.
        item_titles: the title of each item, None where it has none; None where no titles were given.
        features: float32 [items, width], made by ``rearec embed``; None where it has not run.

    Examples:
        Two users of four items; the last item of each is the target of a test row.

        >>> import numpy as np
        >>> from rearec.data import SequenceDataset
        >>> none = np.empty((0, 2), dtype=np.int32)
        >>> dataset = SequenceDataset(
        ...     items=np.array([2, 0, 1, 3, 1], dtype=np.int32),
        ...     offsets=np.array([0, 3, 5]),
        ...     sequence_user=np.array([0, 1], dtype=np.int32),
        ...     split_rows={"train": none, "valid": none, "test": np.array([[0, 2], [1, 1]], dtype=np.int32)},
        ...     item_ids=["a", "b", "c", "d"],
        ...     user_ids=["ann", "bob"],
        ...     statistics={},
        ... )
        >>> dataset.num_items, dataset.history(0, 2).tolist(), dataset.targets("test").tolist()
        (4, [2, 0], [1, 1])
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    sequence_user: NDArray[np.int32]
    split_rows: Mapping[SplitName, NDArray[np.int32]]
    item_ids: list[str]
    user_ids: list[str]
    statistics: dict[str, Any]
    source: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    item_titles: list[str | None] | None = None
    features: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        rows = ", ".join(f"{split} {len(self.split_rows[split]):,}" for split in SPLIT_NAMES)
        counts = f"{self.num_users:,} users, {self.num_items:,} items, {self.num_interactions:,} interactions"
        more = "".join(f"; {part}" for part in self._parts())
        return f"{type(self).__name__}({counts}; rows: {rows}{more})"

    def _repr_html_(self) -> str:
        """For notebooks: the same as a table of two rows."""
        counts = {"users": self.num_users, "items": self.num_items, "interactions": self.num_interactions}
        counts |= {f"{split} rows": len(self.split_rows[split]) for split in SPLIT_NAMES}
        caption = ", ".join((type(self).__name__, *self._parts()))
        return html_table(caption, list(counts), [[f"{count:,}" for count in counts.values()]])

    def _parts(self) -> list[str]:
        """What there is of the items beside their ids."""
        titles = [] if self.item_titles is None else ["titles"]
        return titles + ([] if self.features is None else [f"features of width {self.features.shape[1]:,}"])

    @property
    def num_items(self) -> int:
        """N, the size of the catalogue."""
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def num_interactions(self) -> int:
        """Number of interactions: a row with a sequence of its own adds its target, not its history again."""
        return int(np.diff(self.offsets)[self.first_of_user].sum() + np.count_nonzero(~self.first_of_user))

    @property
    def num_sequences(self) -> int:
        """Number of sequences, at least the number of users."""
        return len(self.sequence_user)

    @property
    def first_of_user(self) -> NDArray[np.bool_]:
        """bool [sequences]: the sequence is its user's first one."""
        user = np.asarray(self.sequence_user)
        first = np.ones(len(user), dtype=bool)
        first[1:] = user[1:] != user[:-1]
        return first

    @cached_property
    def fingerprint(self) -> str:
        """Hex digest of sequences, rows and item ids: equal if and only if models see the same data and split.

        Computed from the arrays; a dataset that was loaded has it from its preparation.
        """
        digest = hashlib.blake2b(digest_size=16)
        arrays: dict[str, tuple[NDArray[Any], str]] = {
            "items": (self.items, "<i4"),
            "offsets": (self.offsets, "<i8"),
            "sequence_user": (self.sequence_user, "<i4"),
            **{f"{split}_rows": (self.split_rows[split], "<i4") for split in SPLIT_NAMES},
        }
        for name, (array, dtype) in arrays.items():
            digest.update(f"{name} {array.shape}".encode())
            for (block,) in in_blocks(array):
                digest.update(np.ascontiguousarray(block, dtype=dtype).data)
        digest.update(json.dumps(self.item_ids).encode())
        return digest.hexdigest()

    def rows(self, split: SplitName) -> NDArray[np.int32]:
        """int32 [rows, 2], the (sequence, position) of each row of ``split``, sorted.

        Rows with position 0 have an empty history: there are none in "train"; those in "valid" and "test" cannot be
        encoded and are answered by popularity.
        """
        if split not in SPLIT_NAMES:
            raise ValueError(f"split must be one of {', '.join(SPLIT_NAMES)}, got {split!r}")
        return self.split_rows[split]

    def sequence(self, sequence: int) -> NDArray[np.int32]:
        """int32 [length], the items of one sequence."""
        return self.items[self.offsets[sequence] : self.offsets[sequence + 1]]

    def history(self, sequence: int, position: int) -> NDArray[np.int32]:
        """int32 [position], the items of one sequence before ``position``."""
        return self.sequence(sequence)[:position]

    def targets(self, split: SplitName, some: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """int64 [rows], the item to predict of each row of ``split``, or of some of them, by their numbers."""
        rows = np.asarray(self.rows(split) if some is None else self.rows(split)[some])
        return self.items[np.asarray(self.offsets)[rows[:, 0]] + rows[:, 1]].astype(np.int64)

    def train_item_counts(self) -> NDArray[np.int64]:
        """int64 [num_items], how often each item occurs before its sequence's first valid or test row.

        A sequence that is not its user's first repeats known history: only its target counts, and only in "train".
        """
        return self._train_item_counts.copy()

    @cached_property
    def _train_item_counts(self) -> NDArray[np.int64]:
        counts = np.zeros(self.num_items, dtype=np.int64)
        for part in self.parts():
            # all of them but those that do not count, which are the fewer ones
            limit, further = part._training_limits(), part._further_train_targets()
            others = ranges(part.offsets[:-1] + limit, np.diff(part.offsets) - limit)
            for items, sign in ((part.items, 1), (part.items[others], -1), (part.items[further], 1)):
                counts += sign * np.bincount(items, minlength=self.num_items)
        return counts

    def train_users_by_item(self) -> tuple[int, NDArray[np.int64]]:
        """How many users have any of the interactions of `train_item_counts`, and int64 [num_items] how many each."""
        users, counts = 0, np.zeros(self.num_items, dtype=np.int64)
        for part in self.parts():
            counted = part.training_interactions()
            user = np.repeat(part.sequence_user.astype(np.int64), np.diff(part.offsets))[counted]
            pairs = np.unique(user * self.num_items + part.items[counted])
            users += len(np.unique(user))
            counts += np.bincount(pairs % self.num_items, minlength=self.num_items)
        return users, counts

    def parts(self, rows: int = BLOCK_ROWS) -> Iterator[SequenceDataset]:
        """The sequences of some users at a time, with their rows, in memory; mapped files leave memory behind them.

        Items and users keep their numbers; a sequence is counted from the first one of its part.

        Args:
            rows: most interactions of a part, unless one user has more.

        Examples:
            >>> from rearec.data.synthetic import Planted, generate
            >>> dataset = generate(0, planted=Planted(users=50))
            >>> sum(part.num_interactions for part in dataset.parts(100)) == dataset.num_interactions
            True
        """
        offsets, user = np.asarray(self.offsets), np.asarray(self.sequence_user)
        begin, places = 0, dict.fromkeys(SPLIT_NAMES, 0)
        while begin < len(user):
            end = max(begin + 1, int(np.searchsorted(offsets, offsets[begin] + rows, side="right")) - 1)
            if end < len(user):
                of_user = int(np.searchsorted(user, user[end]))
                end = of_user if of_user > begin else int(np.searchsorted(user, user[end], side="right"))
            split_rows: dict[SplitName, NDArray[np.int32]] = {}
            for name, first in places.items():
                pairs = self.split_rows[name]
                places[name] = bisect_left(pairs, end, lo=first, key=itemgetter(0))
                split_rows[name] = pairs[first : places[name]] - np.array([begin, 0], dtype=np.int32)
            yield SequenceDataset(
                items=np.array(self.items[offsets[begin] : offsets[end]]),
                offsets=offsets[begin : end + 1] - offsets[begin],
                sequence_user=user[begin:end],
                split_rows=split_rows,
                item_ids=self.item_ids,
                user_ids=self.user_ids,
                statistics={},
            )
            begin = end
            release(self.items, *self.split_rows.values())

    def of_some_users(self, interactions: int, seed: int = 0) -> SequenceDataset:
        """The sequences and rows of users drawn at random, with about so many interactions in all, in memory.

        Items and users keep their numbers, and the catalogue its size. The dataset itself where it has no more.

        Examples:
            >>> from rearec.data.synthetic import Planted, generate
            >>> dataset = generate(0, planted=Planted(users=500))
            >>> some = dataset.of_some_users(1000)
            >>> some.num_items == dataset.num_items, len(some.rows("test")) < 500
            (True, True)
        """
        if len(self.items) <= interactions:
            return self
        share, rng = interactions / len(self.items), np.random.default_rng(seed)
        drawn = rng.random(self.num_users) < share
        kept = drawn[np.asarray(self.sequence_user)]
        lengths = np.diff(np.asarray(self.offsets))[kept]
        place = np.cumsum(kept) - 1
        begin = 0
        items: list[NDArray[np.int32]] = []
        rows: dict[SplitName, list[NDArray[np.int32]]] = {name: [] for name in SPLIT_NAMES}
        for part in self.parts():
            own = kept[begin : begin + len(part.sequence_user)]
            items.append(part.items[np.repeat(own, np.diff(part.offsets))])
            for name, pairs in part.split_rows.items():
                of_own = pairs[own[pairs[:, 0]]]
                rows[name].append(np.stack([place[begin + of_own[:, 0]], of_own[:, 1]], axis=1).astype(np.int32))
            begin += len(own)
        return SequenceDataset(
            items=np.concatenate(items),
            offsets=np.concatenate(([0], np.cumsum(lengths))),
            sequence_user=np.asarray(self.sequence_user)[kept],
            split_rows={name: np.concatenate(parts) for name, parts in rows.items()},
            item_ids=self.item_ids,
            user_ids=self.user_ids,
            statistics=self.statistics,
            source=self.source,
            options=self.options,
        )

    def for_refit(self) -> SequenceDataset:
        """The same sequences to train on to the last interaction: every row with a history is a training row.

        These are all positions of a user's first sequence but 0, and of further sequences the rows of any split. No
        valid or test rows are left.
        """
        length = np.diff(np.asarray(self.offsets)).astype(np.int64)
        own = np.flatnonzero(self.first_of_user & (length > 1))
        positions = ranges(np.ones(len(own), dtype=np.int64), length[own] - 1)
        rows = np.stack([np.repeat(own, length[own] - 1), positions], axis=1)
        given = np.concatenate([np.asarray(self.split_rows[split]) for split in SPLIT_NAMES])
        further = given[~self.first_of_user[given[:, 0]] & (given[:, 1] > 0)]
        every = np.unique(np.concatenate([rows, further]), axis=0).astype(np.int32)
        none = np.empty((0, 2), dtype=np.int32)
        return replace(self, split_rows={"train": every, "valid": none, "test": none})

    def training_interactions(self) -> NDArray[np.bool_]:
        """bool [total], the interactions that `train_item_counts` counts."""
        length = np.diff(self.offsets)
        slot = np.arange(len(self.items)) - np.repeat(np.asarray(self.offsets)[:-1], length)
        counted = slot < np.repeat(self._training_limits(), length)
        counted[self._further_train_targets()] = True
        return counted

    def _training_limits(self) -> NDArray[np.int64]:
        """int64 [sequences], how many items of each count for training: of a user's first one those before its rows."""
        limit = np.diff(self.offsets)
        for split in ("valid", "test"):
            # rows are sorted: a sequence's first one is the earliest
            sequence, position = np.asarray(self.split_rows[split]).T
            first = np.flatnonzero(np.diff(sequence, prepend=-1))
            limit[sequence[first]] = np.minimum(limit[sequence[first]], position[first])
        return np.where(self.first_of_user, limit, 0)

    def _further_train_targets(self) -> NDArray[np.int64]:
        """Where the targets of training rows of sequences stand that are not their user's first."""
        train = np.asarray(self.split_rows["train"])
        if self.num_sequences == 0 or self.first_of_user.all():
            return np.zeros(0, dtype=np.int64)
        further = train[~self.first_of_user[train[:, 0]]]
        return np.asarray(self.offsets)[further[:, 0]] + further[:, 1]


def ranges(starts: NDArray[np.int64], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """The concatenation of [starts[i], starts[i] + counts[i]) over i, int64."""
    shift = starts - (np.cumsum(counts) - counts)
    return np.repeat(shift, counts) + np.arange(counts.sum())

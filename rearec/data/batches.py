"""Batches of (history, next item) rows: many rows of one user share one window, which the model encodes once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec.data.arrays import ranges
from rearec.data.dataset import SequenceDataset, SplitName

__all__ = ["IGNORE_INDEX", "Batch", "PairBatches", "collate_histories"]

Pairing = Literal["shared", "overlapping", "separate"]
IntArray = NDArray[np.int64]

# The target of a row that has none.
IGNORE_INDEX = -100
# Windows are sorted by length within pools of this many batches: little padding, yet batches mix windows of many users.
POOL_BATCHES = 32


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of R rows over S windows of at most C items; every tensor is on one device.

    Attributes:
        items: int64 [S, C], the windows, right padded with item 0 (padding is told by ``lengths``, not by the id).
        lengths: int32 [S], real items of each window, at least 1.
        row_prefix: int32 [R], the window of each row, non-decreasing.
        end: int32 [R], row r sees the slots [0, end[r]) of its window; its last item is slot ``end[r] - 1``.
        target: int64 [R], the next item of each row, -100 where there is none.
        group: int64 [R], the user of each row: rows of one user are not each other's negatives.
        row: int64 [R], index of each row in ``dataset.rows(split)``; None for a batch that comes from no dataset.
    """

    items: Tensor
    lengths: Tensor
    row_prefix: Tensor
    end: Tensor
    target: Tensor
    group: Tensor
    row: Tensor | None = None

    @property
    def num_rows(self) -> int:
        """R, the number of predictions of this batch."""
        return self.end.shape[0]

    @property
    def num_windows(self) -> int:
        """S, the number of windows of this batch."""
        return self.items.shape[0]

    def one_window_per_row(self) -> Batch:
        """The same rows, each with a window of its own."""
        rows = torch.arange(self.num_rows, dtype=torch.int32, device=self.items.device)
        items = self.items.index_select(0, self.row_prefix)
        return replace(self, items=items, lengths=self.end, row_prefix=rows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return Batch(
            items=move(self.items),
            lengths=move(self.lengths),
            row_prefix=move(self.row_prefix),
            end=move(self.end),
            target=move(self.target),
            group=move(self.group),
            row=None if self.row is None else move(self.row),
        )


class PairBatches:
    """The rows of one split as batches; an iterable with an exact ``len`` and random access.

    With ``pairing="shared"`` the rows of a sequence whose position is at most ``max_len`` share one window, which holds
    the items before the last of them; a row further on has a window of its own, its last ``max_len`` items. With
    ``pairing="separate"`` every row has a window of its own. Both give each row exactly its last ``max_len`` items.
    ``pairing="overlapping"`` is "shared", but rows further on share windows too, ``max_len // 2`` positions at a time:
    such a row sees at least the later half of what it would see, with fewer than a tenth of the slots to encode.

    A batch is made of whole windows with together at most ``batch_rows`` rows (a window with more rows is cut), of
    similar length, padded to the longest of them. Rows without a history cannot be encoded: they are left out and
    their indices kept in ``empty_history_rows``.

    Args:
        dataset: the prepared dataset.
        split: "train", "valid" or "test".
        batch_rows: most rows of a batch, at least 1.
        max_len: most items of a history, at least 1.
        pairing: "shared", "overlapping" or "separate".
        shuffle: a new order each epoch, which depends on ``(seed, epoch)`` only; otherwise one fixed order by length.
        seed: a non-negative number.

    Attributes:
        empty_history_rows: int64 [n], indices in ``dataset.rows(split)`` of the rows with an empty history.
        num_rows: rows of an epoch, those with an empty history not counted.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        dataset: SequenceDataset,
        split: SplitName,
        *,
        batch_rows: int,
        max_len: int,
        pairing: Pairing = "shared",
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if pairing not in get_args(Pairing):
            raise ValueError(f"pairing must be one of {', '.join(get_args(Pairing))}, got {pairing!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.dataset = dataset
        self.split = split
        self.batch_rows = batch_rows
        self.max_len = max_len
        self.pairing = pairing
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._plan: tuple[IntArray, IntArray] | None = None

        rows = np.asarray(dataset.rows(split))
        has_history = rows[:, 1] > 0
        self.empty_history_rows: IntArray = np.flatnonzero(~has_history)
        self._row = np.flatnonzero(has_history)
        self._sequence = rows[self._row, 0].astype(np.int64)
        self._position = rows[self._row, 1].astype(np.int64)
        self.num_rows = len(self._row)
        self._make_windows()

    def _make_windows(self) -> None:
        """Cut the rows, which are sorted by sequence and position, into runs that share a window."""
        opens = np.ones(self.num_rows, dtype=bool)
        if self.pairing != "separate":
            # Positions up to max_len go together, and further on so many of them.
            together = max(1, self.max_len // 2) if self.pairing == "overlapping" else 1
            part = np.maximum(self._position - self.max_len + together - 1, 0) // together
            opens[1:] = (self._sequence[1:] != self._sequence[:-1]) | (part[1:] != part[:-1])
            first = np.flatnonzero(opens)
            place = np.arange(self.num_rows) - first[np.cumsum(opens) - 1]
            opens |= place % self.batch_rows == 0
        self._first_row = np.flatnonzero(opens)
        self._row_count = np.diff(self._first_row, append=self.num_rows)
        last = self._position[self._first_row + self._row_count - 1]
        self._window_skip = np.maximum(last - self.max_len, 0)
        self._window_start = np.asarray(self.dataset.offsets)[self._sequence[self._first_row]] + self._window_skip
        self._window_length = last - self._window_skip

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, a non-negative number; the order of the batches depends on ``(seed, epoch)`` only."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        if epoch != self.epoch and self.shuffle:
            self._plan = None
        self.epoch = epoch

    def _planned(self) -> tuple[IntArray, IntArray]:
        """The windows of this epoch in order, and where each batch begins (and the last one ends) in that order."""
        if self._plan is None:
            generator = np.random.default_rng((self.seed, self.epoch))
            windows = len(self._first_row)
            if self.shuffle:
                order = generator.permutation(windows)
                order = order[self._bucket(order)]
            else:
                order = np.argsort(self._window_length, kind="stable")
            bounds = self._cut(order)
            if self.shuffle:
                order, bounds = _shuffle_batches(order, bounds, generator)
            self._plan = order, bounds
        return self._plan

    def _bucket(self, order: IntArray) -> IntArray:
        """Sort ``order`` by length within pools, up and down in turn so that no batch straddles a jump in length."""
        length, rows = self._window_length[order], np.cumsum(self._row_count[order])
        pool = rows // (POOL_BATCHES * self.batch_rows)
        return np.lexsort((np.where(pool % 2 == 0, length, -length), pool))

    def _cut(self, order: IntArray) -> IntArray:
        """Greedy batches: as many windows as the row budget holds."""
        rows = np.concatenate(([0], np.cumsum(self._row_count[order])))
        bounds = [0]
        while bounds[-1] < len(order):
            bounds.append(int(np.searchsorted(rows, rows[bounds[-1]] + self.batch_rows, side="right")) - 1)
        return np.asarray(bounds, dtype=np.int64)

    def __len__(self) -> int:
        """Number of batches of this epoch."""
        return len(self._planned()[1]) - 1

    def __getitem__(self, index: int) -> Batch:
        """Batch ``index`` of this epoch."""
        order, bounds = self._planned()
        if not 0 <= index < len(bounds) - 1:
            raise IndexError(f"batch index must be in [0, {len(bounds) - 1}), got {index}")
        return self._collate(order[bounds[index] : bounds[index + 1]])

    def __iter__(self) -> Iterator[Batch]:
        order, bounds = self._planned()
        for begin, end in itertools.pairwise(bounds):
            yield self._collate(order[begin:end])

    def _collate(self, windows: IntArray) -> Batch:
        counts = self._row_count[windows]
        prefix = np.repeat(np.arange(len(windows)), counts)
        rows = ranges(self._first_row[windows], counts)
        position = self._position[rows]
        sequence = self._sequence[rows]
        target = self.dataset.items[np.asarray(self.dataset.offsets)[sequence] + position]
        lengths = self._window_length[windows]
        return Batch(
            items=torch.from_numpy(_gather_windows(self.dataset.items, self._window_start[windows], lengths)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            row_prefix=torch.from_numpy(prefix.astype(np.int32)),
            end=torch.from_numpy((position - self._window_skip[windows][prefix]).astype(np.int32)),
            target=torch.from_numpy(target.astype(np.int64)),
            group=torch.from_numpy(self.dataset.sequence_user[sequence].astype(np.int64)),
            row=torch.from_numpy(self._row[rows]),
        )


def collate_histories(histories: Sequence[NDArray[np.integer] | Sequence[int]], max_len: int) -> Batch:
    """Raw histories as a batch for inference: one window per history, one row per window, no targets.

    Args:
        histories: for each row its item ids in time order, at least one; only the last ``max_len`` are kept.
        max_len: most items of a window, at least 1.

    Raises:
        ValueError: ``max_len`` is below 1, there is no history, or a history is empty or holds a negative id.
    """
    if max_len < 1:
        raise ValueError(f"max_len must be at least 1, got {max_len}")
    if len(histories) == 0:
        raise ValueError("histories must hold at least one history, got none")
    kept = [np.asarray(history, dtype=np.int64)[-max_len:] for history in histories]
    lengths = np.asarray([len(history) for history in kept], dtype=np.int64)
    if lengths.min() == 0:
        raise ValueError(f"histories[{int(lengths.argmin())}] is empty; a history needs at least one item")
    flat = np.concatenate(kept)
    starts = np.cumsum(lengths) - lengths
    if flat.min() < 0:
        index = int(np.searchsorted(starts, flat.argmin(), side="right")) - 1
        raise ValueError(f"histories[{index}] holds the item id {flat.min()}; ids must not be negative")
    count = len(kept)
    return Batch(
        items=torch.from_numpy(_gather_windows(flat, starts, lengths)),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
        row_prefix=torch.arange(count, dtype=torch.int32),
        end=torch.from_numpy(lengths.astype(np.int32)),
        target=torch.full((count,), IGNORE_INDEX, dtype=torch.int64),
        group=torch.arange(count),
    )


def _gather_windows(items: NDArray[np.integer], starts: IntArray, lengths: IntArray) -> IntArray:
    """[S, C] int64, row s = items[starts[s] : starts[s] + lengths[s]], padded with 0."""
    slots = np.arange(lengths.max())
    real = slots < lengths[:, None]
    windows = np.zeros(real.shape, dtype=np.int64)
    windows[real] = items[(starts[:, None] + slots)[real]]
    return windows


def _shuffle_batches(order: IntArray, bounds: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The same batches in random order."""
    shuffled = generator.permutation(len(bounds) - 1)
    sizes = np.diff(bounds)[shuffled]
    return order[ranges(bounds[:-1][shuffled], sizes)], np.concatenate(([0], np.cumsum(sizes)))

"""Windows with their rows as batches: of similar length, in an order that follows from (seed, epoch)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rearec.data.batch import Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.tables.arrays import release

__all__ = ["IntArray", "WindowBatches", "gather_windows"]

IntArray = NDArray[np.int64]

# Windows are sorted by length within pools of this many batches: little padding, yet batches mix windows of many users.
POOL_BATCHES = 32
# After so many batches what they have read of mapped files leaves memory: otherwise an epoch shows all of it there.
RELEASED_BATCHES = 256


class _Plan(NamedTuple):
    """The windows of an epoch in order, where each batch begins (and the last one ends) in it; sizes of all windows."""

    order: IntArray
    bounds: IntArray
    length: IntArray
    rows: IntArray


class WindowBatches(ABC):
    """An iterable over the batches of an epoch, with an exact ``len`` and random access.

    A batch is made of whole windows with together at most ``batch_rows`` rows, of similar length; a window with more
    rows is a batch of its own.

    Args:
        dataset: the prepared dataset.
        batch_rows: most rows of a batch, at least 1.
        shuffle: a new order each epoch, which depends on ``(seed, epoch)`` only; otherwise one fixed order by length.
        seed: a non-negative number.

    Attributes:
        num_rows: rows of an epoch.

    Raises:
        ValueError: an argument is out of its range.
    """

    num_rows: int

    def __init__(self, dataset: SequenceDataset, *, batch_rows: int, shuffle: bool, seed: int) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.dataset = dataset
        self.batch_rows = batch_rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._plan: _Plan | None = None

    @abstractmethod
    def _windows(self, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        """The length and the number of rows of every window of this epoch; ``generator`` is that of (seed, epoch)."""

    @abstractmethod
    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        """The windows from ``begin`` to before ``end`` of a batch of these windows, as wide as this batch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, a non-negative number; the order of the batches depends on ``(seed, epoch)`` only."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        if epoch != self.epoch and self.shuffle:
            self._plan = None
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches of this epoch."""
        return len(self._planned().bounds) - 1

    def __getitem__(self, index: int) -> Batch:
        """Batch ``index`` of this epoch."""
        windows = self.windows(index)
        return self._collate(windows, 0, len(windows))

    def __iter__(self) -> Iterator[Batch]:
        for index in range(len(self)):
            yield self[index]
            self.release(index + 1)

    def windows(self, index: int) -> IntArray:
        """int64 [S], the numbers of the windows of batch ``index`` of this epoch; for `sizes` and `part`."""
        order, bounds, *_ = self._planned()
        if not 0 <= index < len(bounds) - 1:
            raise IndexError(f"batch index must be in [0, {len(bounds) - 1}), got {index}")
        return order[bounds[index] : bounds[index + 1]]

    def sizes(self, windows: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [S] each: the items and the rows of these windows of this epoch."""
        plan = self._planned()
        return plan.length[windows].astype(np.int64), plan.rows[windows].astype(np.int64)

    def part(self, windows: IntArray, begin: int, end: int) -> Batch:
        """The windows from ``begin`` to before ``end`` of the batch that `windows` has named, at least one of them.

        They are padded to the longest window of that batch.
        """
        return self._collate(windows, begin, end)

    def release(self, done: int) -> None:
        """Give back the memory of mapped files, now and then; ``done``: the batches that were read of this epoch."""
        if done % RELEASED_BATCHES == 0:
            release(self.dataset.items, *self.dataset.split_rows.values())

    def _planned(self) -> _Plan:
        if self._plan is None:
            generator = np.random.default_rng((self.seed, self.epoch))
            length, rows = self._windows(generator)
            if self.shuffle:
                order = generator.permutation(len(length))
                order = order[self._bucket(length[order], rows[order])]
            else:
                order = np.argsort(length, kind="stable")
            bounds = self._cut(rows[order])
            if self.shuffle:
                order, bounds = _shuffle_batches(order, bounds, generator)
            self._plan = _Plan(order, bounds, length, rows)
        return self._plan

    def _bucket(self, length: IntArray, rows: IntArray) -> IntArray:
        """Sort windows by length within pools, up and down in turn so that no batch straddles a jump in length."""
        pool = np.cumsum(rows) // (POOL_BATCHES * self.batch_rows)
        return np.lexsort((np.where(pool % 2 == 0, length, -length), pool))

    def _cut(self, rows: IntArray) -> IntArray:
        """Greedy batches: as many windows as the row budget holds, and at least one."""
        before = np.concatenate(([0], np.cumsum(rows)))
        bounds = [0]
        while bounds[-1] < len(rows):
            fitting = int(np.searchsorted(before, before[bounds[-1]] + self.batch_rows, side="right")) - 1
            bounds.append(max(fitting, bounds[-1] + 1))
        return np.asarray(bounds, dtype=np.int64)


def gather_windows(items: NDArray[np.integer], starts: IntArray, lengths: IntArray, width: int) -> IntArray:
    """[S, width] int64, row s = items[starts[s] : starts[s] + lengths[s]], padded with 0."""
    slots = np.arange(width)
    real = slots < lengths[:, None]
    windows = np.zeros(real.shape, dtype=np.int64)
    windows[real] = items[(starts[:, None] + slots)[real]]
    return windows


def _shuffle_batches(order: IntArray, bounds: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The same batches in random order."""
    shuffled = generator.permutation(len(bounds) - 1)
    sizes = np.diff(bounds)[shuffled]
    return order[ranges(bounds[:-1][shuffled], sizes)], np.concatenate(([0], np.cumsum(sizes)))

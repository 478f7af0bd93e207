"""Windows with their rows as batches: of similar length, in an order that follows from (seed, epoch).

The rows are cut into blocks of consecutive sequences. An epoch goes through the blocks in a random order and takes so
many of them at a time, a pool: only its windows are in memory, and they are mixed with each other. Data of up to
`POOL_BLOCKS` times `BLOCK_ROWS` rows are one pool.

How many batches a larger epoch has is known before it begins, as a pool's windows are sorted by length and rows, those
of one size at random: the sizes stand in the same order in every epoch, and it is they that say where a batch ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from operator import itemgetter
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from rearec.data.batch import Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.tables.arrays import release
from rearec.data.words import SplitName

__all__ = ["Block", "IntArray", "WindowBatches", "Windows", "gather_windows", "joined"]

IntArray = NDArray[np.int64]
# Row numbers [begin, end) of a split.
Block = tuple[int, int]

# Rows of a block, but for those that complete its last sequence, and the most blocks whose windows are mixed.
BLOCK_ROWS = 1 << 18
POOL_BLOCKS = 16
# Windows of an only pool are sorted by length among those of this many batches: little padding, yet batches mix
# windows of many users.
SORTED_BATCHES = 32
# After so many batches what they have read of mapped files leaves memory: otherwise an epoch shows all of it there.
RELEASED_BATCHES = 256
# A window's number is its place in its pool, and above this many bits the pool's.
POOL_SHIFT = 32


@dataclass
class Windows:
    """Runs of rows and of the items they see, an entry for each window.

    Attributes:
        first_row: int64 [W], its first row; rows: how many it has.
        start: int64 [W], the place of its first item among all items; length: how many it has.
        skip: how many items of the sequence stand before it.
    """

    first_row: IntArray
    rows: NDArray[np.integer]
    start: IntArray
    length: NDArray[np.integer]
    skip: NDArray[np.integer]

    def __len__(self) -> int:
        return len(self.rows)


AnyWindows = TypeVar("AnyWindows", bound=Windows)


def joined(parts: Sequence[AnyWindows]) -> AnyWindows:
    """The windows of all parts, one after the other."""
    columns = {each.name: [getattr(part, each.name) for part in parts] for each in fields(parts[0])}
    return type(parts[0])(**{name: np.concatenate(values) for name, values in columns.items()})


class _Pool(NamedTuple):
    """The windows of a pool, their order, and where each batch begins (and the last one ends) in it."""

    windows: Windows
    order: IntArray
    bounds: IntArray


class _Sizes(NamedTuple):
    """The sizes that windows of a block have: their length and rows, and how many windows have them."""

    length: IntArray
    rows: IntArray
    windows: IntArray


class WindowBatches(ABC):
    """An iterable over the batches of an epoch, with an exact ``len`` and random access.

    A batch is made of whole windows with together at most ``batch_rows`` rows, of similar length; a window with more
    rows is a batch of its own. Only what belongs to the pool of the latest batch is in memory.

    Args:
        dataset: the prepared dataset.
        split: "train", "valid" or "test".
        batch_rows: most rows of a batch, at least 1.
        shuffle: a new order each epoch, which depends on ``(seed, epoch)`` only; otherwise one fixed order, in each
            pool by length.
        seed: a non-negative number.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, dataset: SequenceDataset, split: SplitName, *, batch_rows: int, shuffle: bool, seed: int
    ) -> None:
        if batch_rows < 1:
            raise ValueError(f"batch_rows must be at least 1, got {batch_rows}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.dataset = dataset
        self.split = split
        self.batch_rows = batch_rows
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self._pairs = dataset.rows(split)
        self._blocks = _blocks(self._pairs)
        self._num_pools = max(1, -(-len(self._blocks) // POOL_BLOCKS))
        self._sizes: list[_Sizes] | None = None
        self._begins: IntArray | None = None
        self._latest: tuple[int, _Pool] | None = None

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows of an epoch."""

    @abstractmethod
    def _windows_of(self, block: Block) -> Windows:
        """The windows of a block of rows, the same in every epoch."""

    @abstractmethod
    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        """The windows from ``begin`` to before ``end`` of a batch of these windows, as wide as this batch."""

    def _shown(self, windows: Windows) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """The length and rows of the windows that an epoch shows of these."""
        return windows.length, windows.rows

    def _drawn(self, windows: Windows, generator: np.random.Generator) -> Windows:
        """What an epoch shows of the windows of a pool, whose ``generator`` this is."""
        return windows

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, a non-negative number; the order of the batches depends on ``(seed, epoch)`` only."""
        if epoch < 0:
            raise ValueError(f"epoch must not be negative, got {epoch}")
        if epoch != self.epoch and self.shuffle:
            self._begins = self._latest = None
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of batches of this epoch."""
        return int(self._counted()[-1])

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
        begins = self._counted()
        if not 0 <= index < begins[-1]:
            raise IndexError(f"batch index must be in [0, {begins[-1]}), got {index}")
        pool = int(np.searchsorted(begins, index, side="right")) - 1
        _, order, bounds = self._planned(pool)
        place = index - int(begins[pool])
        return order[bounds[place] : bounds[place + 1]] + (pool << POOL_SHIFT)

    def sizes(self, windows: IntArray) -> tuple[IntArray, IntArray]:
        """int64 [S] each: the items and the rows of these windows of this epoch."""
        found, own = self._found(windows)
        return found.length[own].astype(np.int64), found.rows[own].astype(np.int64)

    def part(self, windows: IntArray, begin: int, end: int) -> Batch:
        """The windows from ``begin`` to before ``end`` of the batch that `windows` has named, at least one of them.

        They are padded to the longest window of that batch.
        """
        return self._collate(windows, begin, end)

    def release(self, done: int) -> None:
        """Give back the memory of mapped files, now and then; ``done``: the batches that were read of this epoch."""
        if done % RELEASED_BATCHES == 0:
            self._release()

    def _release(self) -> None:
        dataset = self.dataset
        release(dataset.items, dataset.offsets, dataset.sequence_user, *dataset.split_rows.values())

    def _found(self, windows: IntArray) -> tuple[Windows, IntArray]:
        """The windows of a batch's pool, and which of them are meant."""
        pool = int(windows[0]) >> POOL_SHIFT
        return self._planned(pool).windows, windows - (pool << POOL_SHIFT)

    def _pools(self) -> list[IntArray]:
        """The blocks of each pool of this epoch, in order within it; as many pools in every epoch, of like size."""
        order = np.arange(len(self._blocks))
        if self.shuffle and self._num_pools > 1:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(order)
        return [np.sort(pool) for pool in np.array_split(order, self._num_pools)]

    def _generator(self, pool: int) -> np.random.Generator:
        """That of (seed, epoch), and of the pool where there are several."""
        key = (pool,) if self._num_pools > 1 else ()
        return np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch), spawn_key=key))

    def _counted(self) -> IntArray:
        """int64 [pools + 1], the first batch of each pool and the end of the last one."""
        if self._begins is None:
            if self._num_pools == 1:
                counts = [len(self._planned(0).bounds) - 1]
            else:
                counts = [self._count(pool) for pool in self._pools()]
            self._begins = np.cumsum([0, *counts])
        return self._begins

    def _count(self, pool: IntArray) -> int:
        """How many batches a pool of these blocks makes."""
        if self._sizes is None:
            self._sizes = [self._sizes_of(block) for block in self._blocks]
        length, rows, windows = (
            np.concatenate(column) for column in zip(*(self._sizes[block] for block in pool), strict=True)
        )
        order = np.lexsort((rows, length))
        return len(self._cut(np.repeat(rows[order], windows[order]))) - 1

    def _sizes_of(self, block: Block) -> _Sizes:
        length, rows = self._shown(self._windows_of(block))
        self._release()
        most = int(rows.max(initial=0)) + 1
        found, windows = np.unique(_small(length.astype(np.int64) * most + rows), return_counts=True)
        of_length, of_rows = np.divmod(found.astype(np.int64), most)
        return _Sizes(of_length, of_rows, windows)

    def _planned(self, pool: int) -> _Pool:
        """A pool of this epoch with its batches in order."""
        if self._latest is None or self._latest[0] != pool:
            self._latest = None  # its memory is for the next one
            generator = self._generator(pool)
            windows, order, bounds = self._ordered(pool, generator)
            if self.shuffle:
                order, bounds = _shuffle_batches(order, bounds, generator)
            self._latest = pool, _Pool(windows, order, bounds)
        return self._latest[1]

    def _ordered(self, pool: int, generator: np.random.Generator) -> _Pool:
        """A pool with its windows in order, cut into batches."""
        blocks = [self._blocks[number] for number in self._pools()[pool]] or [(0, 0)]
        windows = self._drawn(joined([self._windows_of(block) for block in blocks]), generator)
        order = generator.permutation(len(windows)) if self.shuffle else np.arange(len(windows))
        order = order[np.argsort(_small(self._sort_key(windows.length[order], windows.rows[order])), kind="stable")]
        return _Pool(windows, order, self._cut(windows.rows[order]))

    def _sort_key(self, length: NDArray[np.integer], rows: NDArray[np.integer]) -> NDArray[np.integer]:
        """What windows, in this order, are sorted by: their length, and one of these."""
        if self._num_pools > 1:
            # so that `_count` knows the order of the sizes
            return length.astype(np.int64) * (int(rows.max(initial=0)) + 1) + rows
        if not self.shuffle:
            return length
        # among those of some batches, up and down in turn so that no batch straddles a jump
        group = np.cumsum(rows, dtype=np.int64) // (SORTED_BATCHES * self.batch_rows)
        longest = int(length.max(initial=0))
        return group * (longest + 1) + np.where(group % 2 == 0, length, longest - length)

    def _cut(self, rows: NDArray[np.integer]) -> IntArray:
        """Greedy batches: as many windows as the row budget holds, and at least one."""
        before = np.concatenate(([0], np.cumsum(rows, dtype=np.int64)))
        bounds = [0]
        while bounds[-1] < len(rows):
            fitting = int(before.searchsorted(before[bounds[-1]] + self.batch_rows, side="right")) - 1
            bounds.append(max(fitting, bounds[-1] + 1))
        return np.asarray(bounds, dtype=np.int64)


def gather_windows(items: NDArray[np.integer], starts: IntArray, lengths: NDArray[np.integer], width: int) -> IntArray:
    """[S, width] int64, row s = items[starts[s] : starts[s] + lengths[s]], padded with 0."""
    slots = np.arange(width)
    real = slots < lengths[:, None]
    windows = np.zeros(real.shape, dtype=np.int64)
    windows[real] = items[(starts[:, None] + slots)[real]]
    return windows


def _blocks(pairs: NDArray[np.int32]) -> list[Block]:
    """The rows, which are sorted by sequence, in blocks of whole sequences; a few of them are looked at."""
    bounds = [0]
    for row in range(BLOCK_ROWS, len(pairs), BLOCK_ROWS):
        first = bisect_left(pairs, pairs[row][0], lo=bounds[-1], hi=row, key=itemgetter(0))
        release(pairs)
        if first > bounds[-1]:
            bounds.append(first)
    return [*zip(bounds, [*bounds[1:], len(pairs)], strict=True)] if len(pairs) else []


def _small(keys: NDArray[np.integer]) -> NDArray[np.integer]:
    """The same numbers from 0, in 16 bits where these hold them: those are sorted in a few passes."""
    return keys.astype(np.uint16) if int(keys.max(initial=0)) <= np.iinfo(np.uint16).max else keys


def _shuffle_batches(order: IntArray, bounds: IntArray, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
    """The same batches in random order."""
    shuffled = generator.permutation(len(bounds) - 1)
    sizes = np.diff(bounds)[shuffled]
    return order[ranges(bounds[:-1][shuffled], sizes)], np.concatenate(([0], np.cumsum(sizes)))

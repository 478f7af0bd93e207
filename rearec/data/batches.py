"""Batches of (history, next item) rows: many rows of one user share one window, which the model encodes once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.tables.arrays import release
from rearec.data.window_batches import Block, IntArray, WindowBatches, Windows, gather_windows
from rearec.data.words import PAIRINGS, Pairing, SplitName

__all__ = ["PairBatches", "collate_histories"]


class PairBatches(WindowBatches):
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
        item_dropout: share of the items that histories are without, in [0, 1); it follows from ``(seed, epoch)`` which.

    Attributes:
        empty_history_rows: int64 [n], indices in ``dataset.rows(split)`` of the rows with an empty history.

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> from rearec.data import PairBatches
        >>> from rearec.data.synthetic import Planted, generate
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> batches = PairBatches(dataset, "train", batch_rows=256, max_len=20, shuffle=True)
        >>> batches.set_epoch(1)
        >>> sum(batch.num_rows for batch in batches) == batches.num_rows == len(dataset.rows("train"))
        True
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
        item_dropout: float = 0.0,
    ) -> None:
        super().__init__(dataset, split, batch_rows=batch_rows, shuffle=shuffle, seed=seed)
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
        if not 0 <= item_dropout < 1:
            raise ValueError(f"item_dropout must be at least 0 and below 1, got {item_dropout}")
        self.item_dropout = item_dropout
        self.max_len = max_len
        self.pairing = pairing
        self.empty_history_rows = self._empty_history_rows()

    def _empty_history_rows(self) -> IntArray:
        found = [np.zeros(0, dtype=np.int64)]
        for begin, end in self._blocks:
            found.append(begin + np.flatnonzero(self._pairs[begin:end, 1] == 0))
            release(self._pairs)
        return np.concatenate(found)

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, those with an empty history not counted."""
        return len(self._pairs) - len(self.empty_history_rows)

    def _windows_of(self, block: Block) -> Windows:
        """Cut the rows, which are sorted by sequence and position, into runs that share a window."""
        sequence, position = np.ascontiguousarray(self._pairs[slice(*block)].T)
        row = block[0] + np.flatnonzero(position)  # those with a history
        if len(row) < len(position):
            sequence, position = sequence[row - block[0]], position[row - block[0]]
        first = np.arange(len(row)) if self.pairing == "separate" else self._first_of_windows(sequence, position)
        rows = np.diff(first, append=len(row))
        last = position[first + rows - 1]
        skip = np.maximum(last - self.max_len, 0)
        start = self.dataset.offsets[sequence[first]] + skip
        return Windows(row[first], rows.astype(np.int32), start, last - skip, skip)

    def _first_of_windows(self, sequence: NDArray[np.int32], position: NDArray[np.int32]) -> IntArray:
        """Which rows open a window that they share with those that follow, at most ``batch_rows``."""
        # Positions up to max_len go together, and further on so many of them.
        together = max(1, self.max_len // 2) if self.pairing == "overlapping" else 1
        run = np.maximum(position - self.max_len + together - 1, 0)
        if together > 1:
            run //= together
        opens = np.ones(len(position), dtype=bool)
        opens[1:] = (sequence[1:] != sequence[:-1]) | (run[1:] != run[:-1])
        first = np.flatnonzero(opens)
        rows = np.diff(first, append=len(position))
        if rows.max(initial=0) > self.batch_rows:
            place = np.arange(len(position)) - np.repeat(first, rows)
            first = np.flatnonzero(place % self.batch_rows == 0)
        return first

    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        found, own = self._found(windows)
        width = int(found.length[own].max())
        if self.item_dropout == 0:
            return self._gathered(found, own[begin:end], width)
        # drawn for the whole batch, so that it does not matter into which parts it is cut; what is left of all of its
        # windows says how wide they are
        generator = np.random.default_rng((self.seed, self.epoch, int(windows[0])))
        drawn = generator.random((len(own), width))
        return self._gathered(found, own, width).without_items(self.item_dropout, drawn).some_windows(begin, end)

    def _gathered(self, found: Windows, own: IntArray, width: int) -> Batch:
        counts = found.rows[own]
        prefix = np.repeat(np.arange(len(own)), counts)
        # The rows of a window follow each other: one without a history is its sequence's first, and in no window.
        rows = ranges(found.first_row[own], counts)
        sequence, position = self._pairs[rows].astype(np.int64).T
        target = self.dataset.items[np.asarray(self.dataset.offsets)[sequence] + position]
        lengths = found.length[own]
        return Batch(
            items=torch.from_numpy(gather_windows(self.dataset.items, found.start[own], lengths, width)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            row_prefix=torch.from_numpy(prefix.astype(np.int32)),
            end=torch.from_numpy((position - found.skip[own][prefix]).astype(np.int32)),
            target=torch.from_numpy(target.astype(np.int64)),
            group=torch.from_numpy(self.dataset.sequence_user[sequence].astype(np.int64)),
            row=torch.from_numpy(rows),
        )


def collate_histories(histories: Sequence[NDArray[np.integer] | Sequence[int]], max_len: int) -> Batch:
    """Raw histories as a batch for inference: one window per history, one row per window, no targets.

    Args:
        histories: for each row its item ids in time order, at least one; only the last ``max_len`` are kept.
        max_len: most items of a window, at least 1.

    Raises:
        ValueError: ``max_len`` is below 1, there is no history, or a history is empty or holds a negative id.

    Examples:
        >>> from rearec.data import collate_histories
        >>> batch = collate_histories([[3, 1, 4, 1], [5]], max_len=3)
        >>> batch.items.tolist(), batch.end.tolist()
        ([[1, 4, 1], [5, 0, 0]], [3, 1])
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
    windows = flat[None] if count == 1 else gather_windows(flat, starts, lengths, int(lengths.max()))
    return Batch(
        items=torch.from_numpy(windows),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
        row_prefix=torch.arange(count, dtype=torch.int32),
        end=torch.from_numpy(lengths.astype(np.int32)),
        target=torch.full((count,), IGNORE_INDEX, dtype=torch.int64),
        group=torch.arange(count),
    )

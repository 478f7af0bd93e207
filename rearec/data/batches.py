"""Batches of (history, next item) rows: many rows of one user share one window, which the model encodes once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.batch import IGNORE_INDEX, Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.window_batches import IntArray, WindowBatches, gather_windows
from rearec.data.words import PAIRINGS, Pairing, SplitName

__all__ = ["PairBatches", "collate_histories"]

# Interactions that are looked at at a time when windows are made.
PART_ROWS = 1 << 20


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
        num_rows: rows of an epoch, those with an empty history not counted.

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
        super().__init__(dataset, batch_rows=batch_rows, shuffle=shuffle, seed=seed)
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing must be one of {', '.join(PAIRINGS)}, got {pairing!r}")
        if not 0 <= item_dropout < 1:
            raise ValueError(f"item_dropout must be at least 0 and below 1, got {item_dropout}")
        self.item_dropout = item_dropout
        self.split = split
        self.max_len = max_len
        self.pairing = pairing

        self._pairs = dataset.rows(split)
        self._make_windows()

    def _make_windows(self) -> None:
        """Cut the rows, which are sorted by sequence and position, into runs that share a window.

        What is kept is of the windows: of rows, of which there are more, those of some users are looked at at a time.
        """
        empty: list[IntArray] = []
        windows: list[list[NDArray[np.integer]]] = []
        row, total = 0, 0
        for part in self.dataset.parts(PART_ROWS):
            pairs = part.rows(self.split)
            has_history = pairs[:, 1] > 0
            empty.append(row + np.flatnonzero(~has_history))
            first, start, *small = self._windows_of(part, pairs[has_history], np.flatnonzero(has_history))
            windows.append([row + first, total + start, *(values.astype(np.int32) for values in small)])
            row, total = row + len(pairs), total + len(part.items)
        self.empty_history_rows: IntArray = np.concatenate(empty)
        self.num_rows = row - len(self.empty_history_rows)
        self._first_row, self._window_start, self._row_count, self._window_skip, self._window_length = (
            np.concatenate(of_all) for of_all in zip(*windows, strict=True)
        )

    def _windows_of(self, part: SequenceDataset, pairs: NDArray[np.int32], row: IntArray) -> list[IntArray]:
        """Of each window of a part the first row, the first item, the rows, the items that are skipped, the length.

        pairs: int32 [rows, 2], those with a history; row: which of the part's rows each is.
        """
        count = len(pairs)
        sequence, position = pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64)
        opens = np.ones(count, dtype=bool)
        if self.pairing != "separate":
            # Positions up to max_len go together, and further on so many of them.
            together = max(1, self.max_len // 2) if self.pairing == "overlapping" else 1
            run = np.maximum(position - self.max_len + together - 1, 0) // together
            opens[1:] = (sequence[1:] != sequence[:-1]) | (run[1:] != run[:-1])
            first = np.flatnonzero(opens)
            place = np.arange(count) - first[np.cumsum(opens) - 1]
            opens |= place % self.batch_rows == 0
        first = np.flatnonzero(opens)
        rows = np.diff(first, append=count)
        last = position[first + rows - 1]
        skip = np.maximum(last - self.max_len, 0)
        return [row[first], part.offsets[sequence[first]] + skip, rows, skip, last - skip]

    def _windows(self, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        return self._window_length, self._row_count

    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        width = int(self._window_length[windows].max())
        if self.item_dropout == 0:
            return self._gathered(windows[begin:end], width)
        # drawn for the whole batch, so that it does not matter into which parts it is cut; what is left of all of its
        # windows says how wide they are
        generator = np.random.default_rng((self.seed, self.epoch, int(windows[0])))
        drawn = generator.random((len(windows), width))
        return self._gathered(windows, width).without_items(self.item_dropout, drawn).some_windows(begin, end)

    def _gathered(self, windows: IntArray, width: int) -> Batch:
        counts = self._row_count[windows]
        prefix = np.repeat(np.arange(len(windows)), counts)
        # The rows of a window follow each other: one without a history is its sequence's first, and in no window.
        rows = ranges(self._first_row[windows], counts)
        sequence, position = self._pairs[rows].astype(np.int64).T
        target = self.dataset.items[np.asarray(self.dataset.offsets)[sequence] + position]
        lengths = self._window_length[windows]
        starts = self._window_start[windows]
        return Batch(
            items=torch.from_numpy(gather_windows(self.dataset.items, starts, lengths, width)),
            lengths=torch.from_numpy(lengths.astype(np.int32)),
            row_prefix=torch.from_numpy(prefix.astype(np.int32)),
            end=torch.from_numpy((position - self._window_skip[windows][prefix]).astype(np.int32)),
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

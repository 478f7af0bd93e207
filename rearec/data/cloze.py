"""Batches of the Cloze objective: windows with some of their items masked, to be told from the others (BERT4Rec)."""

from __future__ import annotations

import numpy as np
import torch

from rearec.data.batch import MASK_ID, Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.window_batches import IntArray, WindowBatches, gather_windows

__all__ = ["ClozeBatches"]


class ClozeBatches(WindowBatches):
    """The training rows as masked items (arXiv 1904.06690, sections 3.5 and 3.6).

    The training rows of a sequence are cut, from the last one backwards, at every ``max_len`` + 1 positions, which is a
    history and the mask behind it. A window holds the target of the last row of such a part and the items before it, as
    many. Every epoch shows each window twice: once with a share of its items masked, and once with its last one alone,
    which is what inference asks. Only targets of the part's rows are masked; the others (a first item, one that was
    filtered out) are seen. At least one item is masked and one is not.

    Every masked item is a row of the batch: it stands at its ``slot`` and sees the whole window. Masks and order depend
    on ``(seed, epoch)`` only. The rows of a window stay together, even where they are more than ``batch_rows``.

    Args:
        dataset: the prepared dataset.
        batch_rows: most rows of a batch, at least 1.
        max_len: most items of a history, at least 1.
        mask_share: the share of a window's items to mask, rounded, between 0 and 1.
        seed: a non-negative number.

    Attributes:
        num_rows: rows of an epoch.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, dataset: SequenceDataset, *, batch_rows: int, max_len: int, mask_share: float, seed: int = 0
    ) -> None:
        super().__init__(dataset, batch_rows=batch_rows, shuffle=True, seed=seed)
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must be between 0 and 1, got {mask_share}")
        self.max_len = max_len
        self.mask_share = mask_share
        rows = np.asarray(dataset.rows("train")).astype(np.int64)
        self._sequence, self._position = rows[:, 0], rows[:, 1]
        self._make_windows()
        self.num_rows = int(self._row_count.sum())

    def _make_windows(self) -> None:
        """Cut the rows, which are sorted by sequence and position, into runs that share a window."""
        slots = self.max_len + 1
        last_of_sequence = np.searchsorted(self._sequence, self._sequence, side="right") - 1
        part = (self._position[last_of_sequence] - self._position) // slots
        opens = np.ones(len(part), dtype=bool)
        opens[1:] = (self._sequence[1:] != self._sequence[:-1]) | (part[1:] != part[:-1])
        first = np.flatnonzero(opens)
        rows = np.diff(first, append=len(part))
        end = self._position[first + rows - 1] + 1
        # an item alone says nothing
        kept = end > 1
        first, rows, end = first[kept], rows[kept], end[kept]
        self._first_row, self._maskable = first, rows
        self._skip = np.maximum(end - slots, 0)
        self._start = np.asarray(self.dataset.offsets)[self._sequence[first]] + self._skip
        length = end - self._skip
        masked = np.floor(self.mask_share * length + 0.5).astype(np.int64)
        masked = np.clip(masked, 1, np.minimum(rows, length - 1))
        # every window with random masks, then every window with its last item masked
        self._length = np.tile(length, 2)
        self._row_count = np.concatenate((masked, np.ones_like(masked)))

    def _windows(self, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        """Draws the masks of the epoch."""
        windows = len(self._maskable)
        row = ranges(self._first_row, self._maskable)
        window = np.repeat(np.arange(windows), self._maskable)
        drawn = np.lexsort((generator.random(len(row)), window))
        place = ranges(np.zeros(windows, dtype=np.int64), self._maskable)
        masked = np.sort(row[drawn[place < self._row_count[window]]])
        self._masked_rows = np.concatenate((masked, self._first_row + self._maskable - 1))
        self._first_masked = np.cumsum(self._row_count) - self._row_count
        return self._length, self._row_count

    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        width, windows = int(self._length[windows].max()), windows[begin:end]
        shown = windows % len(self._maskable)
        counts, length, skip = self._row_count[windows], self._length[windows], self._skip[shown]
        prefix = np.repeat(np.arange(len(windows)), counts)
        row = self._masked_rows[ranges(self._first_masked[windows], counts)]
        slot = self._position[row] - skip[prefix]
        items = gather_windows(self.dataset.items, self._start[shown], length, width)
        target = items[prefix, slot]
        items[prefix, slot] = MASK_ID
        return Batch(
            items=torch.from_numpy(items),
            lengths=torch.from_numpy(length.astype(np.int32)),
            row_prefix=torch.from_numpy(prefix.astype(np.int32)),
            end=torch.from_numpy(length[prefix].astype(np.int32)),
            target=torch.from_numpy(target),
            group=torch.from_numpy(self.dataset.sequence_user[self._sequence[row]].astype(np.int64)),
            row=torch.from_numpy(row),
            slot=torch.from_numpy(slot.astype(np.int32)),
        )

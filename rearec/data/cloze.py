"""Batches of the Cloze objective: windows with some of their items masked, to be told from the others (BERT4Rec)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from rearec.data.batch import MASK_ID, Batch
from rearec.data.dataset import SequenceDataset, ranges
from rearec.data.window_batches import Block, IntArray, WindowBatches, Windows, gather_windows

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

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, dataset: SequenceDataset, *, batch_rows: int, max_len: int, mask_share: float, seed: int = 0
    ) -> None:
        super().__init__(dataset, "train", batch_rows=batch_rows, shuffle=True, seed=seed)
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if not 0 < mask_share < 1:
            raise ValueError(f"mask_share must be between 0 and 1, got {mask_share}")
        self.max_len = max_len
        self.mask_share = mask_share

    @cached_property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return sum(int(self._shown(self._windows_of(block))[1].sum()) for block in self._blocks)

    def _windows_of(self, block: Block) -> Windows:
        """Cut the rows, which are sorted by sequence and position, into runs that share a window."""
        slots = self.max_len + 1
        sequence, position = np.ascontiguousarray(self._pairs[slice(*block)].T)
        opens = np.ones(len(sequence), dtype=bool)
        opens[1:] = sequence[1:] != sequence[:-1]
        first = np.flatnonzero(opens)
        rows = np.diff(first, append=len(sequence))
        part = (np.repeat(position[first + rows - 1], rows) - position) // slots
        opens[1:] |= part[1:] != part[:-1]
        first = np.flatnonzero(opens)
        rows = np.diff(first, append=len(sequence))
        end = position[first + rows - 1] + 1
        # an item alone says nothing
        kept = end > 1
        first, rows, end = first[kept], rows[kept], end[kept]
        skip = np.maximum(end - slots, 0)
        return Windows(
            first_row=block[0] + first,
            rows=rows,
            start=self.dataset.offsets[sequence[first]] + skip,
            length=end - skip,
            skip=skip,
        )

    def _shown(self, windows: Windows) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
        """Every window with random masks, then every window with its last item masked."""
        masked = np.floor(self.mask_share * windows.length + 0.5).astype(np.int64)
        masked = np.clip(masked, 1, np.minimum(windows.rows, windows.length - 1))
        return np.tile(windows.length, 2), np.concatenate((masked, np.ones_like(masked)))

    def _drawn(self, windows: Windows, generator: np.random.Generator) -> Windows:
        """Draws the masks."""
        length, rows = self._shown(windows)
        count, maskable = len(windows), windows.rows
        row = ranges(windows.first_row, maskable)
        window = np.repeat(np.arange(count), maskable)
        drawn = np.lexsort((generator.random(len(row)), window))
        place = ranges(np.zeros(count, dtype=np.int64), maskable)
        masked = np.sort(row[drawn[place < rows[window]]])
        return _MaskedWindows(
            first_row=np.tile(windows.first_row, 2),
            rows=rows,
            start=np.tile(windows.start, 2),
            length=length,
            skip=np.tile(windows.skip, 2),
            first_masked=np.cumsum(rows) - rows,
            masked_rows=np.concatenate((masked, windows.first_row + maskable - 1)),
        )

    def _collate(self, windows: IntArray, begin: int, end: int) -> Batch:
        found, own = self._found(windows)
        assert isinstance(found, _MaskedWindows)
        width, own = int(found.length[own].max()), own[begin:end]
        counts, length = found.rows[own], found.length[own]
        prefix = np.repeat(np.arange(len(own)), counts)
        row = found.masked_rows[ranges(found.first_masked[own], counts)]
        sequence, position = self._pairs[row].astype(np.int64).T
        slot = position - found.skip[own][prefix]
        items = gather_windows(self.dataset.items, found.start[own], length, width)
        target = items[prefix, slot]
        items[prefix, slot] = MASK_ID
        return Batch(
            items=torch.from_numpy(items),
            lengths=torch.from_numpy(length.astype(np.int32)),
            row_prefix=torch.from_numpy(prefix.astype(np.int32)),
            end=torch.from_numpy(length[prefix].astype(np.int32)),
            target=torch.from_numpy(target),
            group=torch.from_numpy(self.dataset.sequence_user[sequence].astype(np.int64)),
            row=torch.from_numpy(row),
            slot=torch.from_numpy(slot.astype(np.int32)),
        )


@dataclass
class _MaskedWindows(Windows):
    """Windows with ``rows`` of their items masked.

    first_masked: where the masked rows of each window begin in ``masked_rows``.
    """

    first_masked: IntArray
    masked_rows: IntArray

"""Batches of (history, next item) rows: many rows of one user share one window, which the model encodes once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec.data.arrays import ranges
from rearec.data.dataset import SequenceDataset, SplitName
from rearec.data.window_batches import IntArray, WindowBatches, gather_windows

__all__ = ["IGNORE_INDEX", "MASK_ID", "Batch", "PairBatches", "collate_histories"]

Pairing = Literal["shared", "overlapping", "separate"]

# The target of a row that has none.
IGNORE_INDEX = -100
# What a window holds in place of an item that is masked (the Cloze objective).
MASK_ID = -1


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of R rows over S windows of at most C items; every tensor is on one device.

    Attributes:
        items: int64 [S, C], the windows, right padded with item 0 (padding is told by ``lengths``, not by the id);
            ``MASK_ID`` where an item is masked.
        lengths: int32 [S], real items of each window, at least 1.
        row_prefix: int32 [R], the window of each row, non-decreasing.
        end: int32 [R], row r sees the slots [0, end[r]) of its window; its last item is slot ``end[r] - 1``.
        target: int64 [R], the next item of each row, -100 where there is none.
        group: int64 [R], the user of each row: rows of one user are not each other's negatives.
        row: int64 [R], index of each row in ``dataset.rows(split)``; None for a batch that comes from no dataset.
        slot: int32 [R], the masked slot below ``end[r]`` at which row r asks for an item, for a backbone trained on the
            Cloze objective; the rows of a window then see all of it. None: every row asks what follows its last item.
    """

    items: Tensor
    lengths: Tensor
    row_prefix: Tensor
    end: Tensor
    target: Tensor
    group: Tensor
    row: Tensor | None = None
    slot: Tensor | None = None

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
        """The same batch on another device; the batch itself where it is there."""
        if self.items.device == torch.device(device):
            return self
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(
            self,
            **{
                name: tensor.to(device, non_blocking=non_blocking)
                for name, tensor in tensors.items()
                if tensor is not None
            },
        )


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
        super().__init__(batch_rows=batch_rows, shuffle=shuffle, seed=seed)
        if max_len < 1:
            raise ValueError(f"max_len must be at least 1, got {max_len}")
        if pairing not in get_args(Pairing):
            raise ValueError(f"pairing must be one of {', '.join(get_args(Pairing))}, got {pairing!r}")
        self.dataset = dataset
        self.split = split
        self.max_len = max_len
        self.pairing = pairing

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

    def _windows(self, generator: np.random.Generator) -> tuple[IntArray, IntArray]:
        return self._window_length, self._row_count

    def _collate(self, windows: IntArray) -> Batch:
        counts = self._row_count[windows]
        prefix = np.repeat(np.arange(len(windows)), counts)
        rows = ranges(self._first_row[windows], counts)
        position = self._position[rows]
        sequence = self._sequence[rows]
        target = self.dataset.items[np.asarray(self.dataset.offsets)[sequence] + position]
        lengths = self._window_length[windows]
        return Batch(
            items=torch.from_numpy(gather_windows(self.dataset.items, self._window_start[windows], lengths)),
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
    windows = flat[None] if count == 1 else gather_windows(flat, starts, lengths)
    return Batch(
        items=torch.from_numpy(windows),
        lengths=torch.from_numpy(lengths.astype(np.int32)),
        row_prefix=torch.arange(count, dtype=torch.int32),
        end=torch.from_numpy(lengths.astype(np.int32)),
        target=torch.full((count,), IGNORE_INDEX, dtype=torch.int64),
        group=torch.arange(count),
    )

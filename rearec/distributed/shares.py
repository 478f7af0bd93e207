"""The batch of a step cut into one share for each process, by whole windows and with the same work for all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from rearec.data.batch import IGNORE_INDEX, Batch, Part
from rearec.data.window_batches import IntArray, WindowBatches
from rearec.distributed.group import Processes
from rearec_kernels import MaskRows

__all__ = ["SharedBatches"]


class SharedBatches:
    """One process's shares of the batches of an epoch; as many as there are batches, whatever each share holds.

    The shares of a batch follow each other in its order of windows, and all together are the batch; each is as wide as
    it. A share says where in the batch it stands (`rearec.data.batch.Part`), by which the model's dropout drops what it
    would in the whole batch. One without windows is a window whose rows have no target, so that its process takes part
    in the step. Only the own windows are read, but for item dropout, which looks at all of a batch.

    Args:
        batches: what one process alone would train on. Its epoch is chosen through this object.
        processes: which share, of how many.
        slot_work: the work for a slot of a window, where that for a row is 1.

    Examples:
        >>> from rearec.data import PairBatches
        >>> from rearec.data.synthetic import Planted, generate
        >>> from rearec.distributed import Processes, SharedBatches
        >>> dataset = generate(0, planted=Planted(users=50))
        >>> batches = PairBatches(dataset, "train", batch_rows=256, max_len=20, shuffle=True)
        >>> shares = [SharedBatches(batches, Processes(rank, 2))[0] for rank in range(2)]
        >>> sum(share.num_rows for share in shares) == batches[0].num_rows
        True
    """

    def __init__(self, batches: WindowBatches, processes: Processes, slot_work: float = 0.0) -> None:
        self.batches = batches
        self.processes = processes
        self.slot_work = slot_work

    @property
    def num_rows(self) -> int:
        """Rows of an epoch, of all processes."""
        return self.batches.num_rows

    def set_epoch(self, epoch: int) -> None:
        """As `WindowBatches.set_epoch`."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Batch:
        """This process's share of batch ``index`` of this epoch."""
        windows = self.batches.windows(index)
        length, rows = self.batches.sizes(windows)
        # every window is as wide as the batch
        begin, end = self._cut(rows + self.slot_work * length.max())
        is_empty = begin == end
        if is_empty:
            begin, end = 0, 1
        share = self.batches.part(windows, begin, end)
        part = Part(
            rows=MaskRows(int(rows[:begin].sum()), share.num_rows, int(rows.sum())),
            windows=MaskRows(begin, end - begin, len(windows)),
            counted=0 if is_empty else share.num_rows,
        )
        target = share.target.new_full((share.num_rows,), IGNORE_INDEX) if is_empty else share.target
        return replace(share, target=target, part=part)

    def __iter__(self) -> Iterator[Batch]:
        for index in range(len(self)):
            yield self[index]
            self.batches.release(index + 1)

    def _cut(self, work: IntArray) -> tuple[int, int]:
        """The windows of this share: a window belongs to the process in whose part of all work its middle lies."""
        middle = np.cumsum(work) - work / 2
        parts = np.arange(self.processes.size + 1) / self.processes.size * work.sum()
        bounds = np.searchsorted(middle, parts)
        return int(bounds[self.processes.rank]), int(bounds[self.processes.rank + 1])

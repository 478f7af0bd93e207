"""A batch: R predictions over S windows of items, as tensors on one device."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec_kernels import MaskRows, PrefixRows

__all__ = ["IGNORE_INDEX", "MASK_ID", "Batch", "Part"]

# The target of a row that has none.
IGNORE_INDEX = -100
# What a window holds in place of an item that is masked (the Cloze objective).
MASK_ID = -1


@dataclass(frozen=True)
class Part:
    """Where a batch stands in a larger one that several processes share (`rearec.distributed.SharedBatches`).

    rows, windows: which of the larger batch's rows and windows this one has: so many from the first of them on. Where a
        pass of the model has them twice (the noised branch), they are numbered as in a pass over the larger batch.
    counted: how many rows of this one have a target.
    """

    rows: MaskRows
    windows: MaskRows
    counted: int

    def slots(self, count: int) -> MaskRows:
        """Which of the larger batch's slots this one has, where windows have ``count`` of them each."""
        first, windows, of = self.windows
        return MaskRows(first * count, windows * count, of * count)


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
        part: where this batch stands in that of a step which several processes share; None: it is all of it.

    Examples:
        Two users; the first one's window is read by two rows, as they would be after its second and its third item.

        >>> import torch
        >>> from rearec.data import Batch
        >>> batch = Batch(
        ...     items=torch.tensor([[3, 1, 4], [5, 0, 0]]),
        ...     lengths=torch.tensor([3, 1], dtype=torch.int32),
        ...     row_prefix=torch.tensor([0, 0, 1], dtype=torch.int32),
        ...     end=torch.tensor([2, 3, 1], dtype=torch.int32),
        ...     target=torch.tensor([4, 1, 5]),
        ...     group=torch.tensor([0, 0, 1]),
        ... )
        >>> batch.num_rows, batch.num_windows
        (3, 2)
    """

    items: Tensor
    lengths: Tensor
    row_prefix: Tensor
    end: Tensor
    target: Tensor
    group: Tensor
    row: Tensor | None = None
    slot: Tensor | None = None
    part: Part | None = None

    def __repr__(self) -> str:
        windows = f"{self.num_windows:,} windows of at most {self.items.shape[1]:,} items"
        return f"Batch({self.num_rows:,} rows over {windows}, on {self.items.device})"

    @property
    def num_rows(self) -> int:
        """R, the number of predictions of this batch."""
        return self.end.shape[0]

    @property
    def num_windows(self) -> int:
        """S, the number of windows of this batch."""
        return self.items.shape[0]

    @property
    def rows(self) -> PrefixRows:
        """Which slots of which window each row sees, for `rearec_kernels`: made once and used by every layer.

        The tensors of a batch are not to be written to once it was asked for.
        """
        if torch.compiler.is_compiling():  # what a trace leaves in an object is of no use outside of it
            return PrefixRows(end=self.end, row_prefix=self.row_prefix)
        rows: PrefixRows | None = self.__dict__.get("_rows")
        if rows is None:
            rows = PrefixRows(end=self.end, row_prefix=self.row_prefix)
            object.__setattr__(self, "_rows", rows)
        return rows

    def one_window_per_row(self) -> Batch:
        """The same rows, each with a window of its own."""
        rows = torch.arange(self.num_rows, dtype=torch.int32, device=self.items.device)
        items = self.items.index_select(0, self.row_prefix)
        part = None if self.part is None else replace(self.part, windows=self.part.rows)
        return replace(self, items=items, lengths=self.end, row_prefix=rows, part=part)

    def some_windows(self, begin: int, end: int) -> Batch:
        """The windows from ``begin`` to before ``end`` with their rows, as wide as they are here."""
        rows = (self.row_prefix >= begin) & (self.row_prefix < end)
        of_windows = {name: getattr(self, name)[begin:end] for name in ("items", "lengths")}
        of_rows: dict[str, Any] = {
            field.name: value[rows]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor) and field.name not in of_windows
        }
        of_rows["row_prefix"] = of_rows["row_prefix"] - begin
        return replace(self, **of_windows, **of_rows)

    def without_items(self, share: float, drawn: NDArray[np.float64]) -> Batch:
        """The same rows and targets, every item of a window left out with probability ``share``; the others close up.

        Where a row would see nothing, its window keeps its first item.

        Args:
            share: in [0, 1).
            drawn: [S, C], random numbers in [0, 1): an item is left out where its number is below ``share``.

        Examples:
            >>> import numpy as np
            >>> from rearec.data import collate_histories
            >>> batch = collate_histories([[3, 1, 4, 1, 5, 9], [2]], max_len=6)
            >>> fewer = batch.without_items(0.5, np.random.default_rng(0).random((2, 6)))
            >>> fewer.items.tolist(), fewer.end.tolist()
            ([[3, 5, 9], [2, 0, 0]], [3, 1])
        """
        kept = torch.arange(self.items.shape[1]) < self.lengths[:, None]
        kept &= torch.from_numpy(drawn >= share)
        window, last = self.row_prefix.long(), self.end.long() - 1
        kept[window[kept.cumsum(1)[window, last] == 0], 0] = True
        left = kept.cumsum(1)
        items = self.items.new_zeros(len(left), int(left[:, -1].max()))
        items[kept.nonzero()[:, 0], left[kept] - 1] = self.items[kept]
        return replace(self, items=items, lengths=left[:, -1].int(), end=left[window, last].int())

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device; the batch itself where it is there."""
        if self.items.device == torch.device(device):
            return self
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking)
            for name, value in values.items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

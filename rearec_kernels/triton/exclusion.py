"""What `exclude` bars from retrieval, in ascending order as the kernels walk through it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


class Exclusion:
    """Barred items: of all rows as `mask` bool [N], or of each row as `items` between `offsets` [R + 1]."""

    def __init__(self, offsets: Tensor | None, items: Tensor | None, catalog: int, device: torch.device) -> None:
        self.mask = self.items = torch.empty(0, dtype=torch.int64, device=device)
        self.offsets = self.items
        self.for_all = items is not None and offsets is None
        self.per_row = items is not None and offsets is not None
        if items is not None and offsets is None:
            self.mask = torch.zeros(catalog, dtype=torch.bool, device=device).index_fill_(0, items.long(), True)
        elif items is not None and offsets is not None:
            self.offsets = offsets.long()
            # Sorted by row and, within it, by item; repetitions do no harm.
            position = torch.arange(items.shape[0], device=device)
            row = torch.searchsorted(self.offsets, position, right=True) - 1
            keys = (row * catalog + items).sort().values
            self.items = keys % catalog

    def arguments(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.mask, self.offsets, self.items

    def constants(self) -> dict[str, bool]:
        return {"BAR_FOR_ALL": self.for_all, "BAR_PER_ROW": self.per_row}


@triton.jit
def allowed_items(mask_ptr, item, inside, BAR_FOR_ALL: tl.constexpr):
    """Which of the items are not barred for all rows."""
    if BAR_FOR_ALL:
        return inside & (tl.load(mask_ptr + item, mask=inside, other=1) == 0)
    else:
        return inside


@triton.jit
def first_barred(offsets_ptr, items_ptr, row, inside, first_item):
    """Where in `items` each row's items from `first_item` on begin, and where they end: by bisection."""
    low = tl.load(offsets_ptr + row, mask=inside, other=0)
    end = tl.load(offsets_ptr + row + 1, mask=inside, other=0)
    high = end
    while tl.max(high - low, 0) > 0:
        middle = (low + high) // 2
        item = tl.load(items_ptr + middle, mask=low < high, other=0)
        before = (low < high) & (item < first_item)
        high = tl.where(before, high, middle)
        low = tl.where(before, middle + 1, low)
    return low, end


@triton.jit
def bar_items(scores, item, position, end, items_ptr, end_item, barred):
    """Scores [rows, items] with the rows' barred items up to `end_item` as `barred`, and how far each row now is."""
    next_item = tl.load(items_ptr + position, mask=position < end, other=end_item)
    while tl.min(next_item, 0) < end_item:
        scores = tl.where(item[None, :] == next_item[:, None], barred, scores)
        position += (next_item < end_item).to(tl.int64)
        next_item = tl.load(items_ptr + position, mask=position < end, other=end_item)
    return scores, position

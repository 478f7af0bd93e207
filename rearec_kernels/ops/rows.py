"""Ops of index tensors: what the kernels read is a copy, whose values were looked at. As ops, so that it happens under
torch.compile too, when the values are there."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.arguments import checks_values
from rearec_kernels.ops.registry import declare

_Index = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _prefix_rows(
    start: Tensor | None, end: Tensor | None, row_prefix: Tensor | None, prefixes: int, slots: int
) -> _Index:
    """The tensors of rows.RowIndex; at least one is given."""
    given = next(x for x in (start, end, row_prefix) if x is not None)
    rows, device = given.shape[0], given.device
    if checks_values(device):
        _check_rows(start, end, row_prefix, rows, prefixes, slots)

    def int32(x: Tensor | None, default: int) -> Tensor:
        if x is None:
            return torch.full((rows,), default, dtype=torch.int32, device=device)
        return x.to(torch.int32, copy=True)

    def count(stop: int) -> Tensor:
        return torch.arange(stop, dtype=torch.int32, device=device)

    # Every row a prefix of its own is what inference on a CPU mostly sees; elsewhere a look would synchronise.
    if row_prefix is None or (
        rows == prefixes and checks_values(device) and torch.equal(row_prefix, count(rows).to(row_prefix.dtype))
    ):
        return int32(start, 0), int32(end, slots), count(rows), count(rows), count(rows + 1)
    order = torch.argsort(row_prefix, stable=True)
    offsets = torch.searchsorted(row_prefix[order], count(prefixes + 1).to(row_prefix.dtype), out_int32=True)
    return int32(start, 0), int32(end, slots), int32(row_prefix, 0), order.to(torch.int32), offsets


def _check_rows(
    start: Tensor | None, end: Tensor | None, row_prefix: Tensor | None, rows: int, prefixes: int, slots: int
) -> None:
    """Looks at the values as they were given: int64 ones may not fit into the int32 they are kept in."""
    limits = ((start, slots), (end, slots), (row_prefix, prefixes - 1))
    fits = all(_lies_within(x, limit) for x, limit in limits if x is not None)
    if fits and (start is None or end is None or not bool((end < start).any())):
        return
    # A default row_prefix is right, and 0 is a prefix unless there is none.
    first, last, prefix = (
        torch.full((rows,), default, dtype=torch.int64, device="cpu") if x is None else x.cpu()
        for x, default in ((start, 0), (end, slots), (row_prefix, 0))
    )
    wrong = (first < 0) | (last < first) | (last > slots) | (prefix < 0) | (prefix >= prefixes)
    r = int(wrong.nonzero()[0])
    raise ValueError(
        f"PrefixRows: row {r} has start {int(first[r])}, end {int(last[r])}, row_prefix {int(prefix[r])}; expected "
        f"0 <= start <= end <= {slots} and 0 <= row_prefix < {prefixes}"
    )


def _lies_within(x: Tensor, limit: int) -> bool:
    """Whether all values are in [0, limit]."""
    if x.numel() == 0:
        return True
    low, high = torch.aminmax(x)
    return int(low) >= 0 and int(high) <= limit


def _prefix_rows_fake(
    start: Tensor | None, end: Tensor | None, row_prefix: Tensor | None, prefixes: int, slots: int
) -> _Index:
    given = next(x for x in (start, end, row_prefix) if x is not None)
    index = [given.new_empty(given.shape[0], dtype=torch.int32) for _ in range(4)]
    return *index, given.new_empty(prefixes + 1, dtype=torch.int32)  # type: ignore[return-value]


declare(
    "prefix_rows",
    "(Tensor? start, Tensor? end, Tensor? row_prefix, SymInt prefixes, SymInt slots) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _prefix_rows_fake,
    _prefix_rows,
)


class OutOfRange(IndexError, ValueError):
    """An index that a caller handed in points to nothing."""


def _checked_index(index: Tensor, largest: int, name: str) -> Tensor:
    """int64, for which every value in [0, largest] will do."""
    if checks_values(index.device) and not _lies_within(index, largest):
        raise OutOfRange(f"{name} must be in [0, {largest}], got {int(index.min())} to {int(index.max())}")
    return index.to(torch.int64, copy=True)


declare(
    "checked_index",
    "(Tensor index, SymInt largest, str name) -> Tensor",
    lambda index, largest, name: torch.empty_like(index, dtype=torch.int64, memory_format=torch.contiguous_format),
    _checked_index,
)

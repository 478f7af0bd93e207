"""Which prefix slots each row sees."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels.arguments import describe


class RowIndex(NamedTuple):
    """The rows of prefixes of a known number and length: int32 tensors [R], looked at. In `order` the rows are sorted
    by prefix; those of prefix s are its entries from offsets[s] to offsets[s + 1] (`offsets` is [S + 1])."""

    start: Tensor
    end: Tensor
    row_prefix: Tensor
    order: Tensor
    offsets: Tensor


class PrefixRows:
    """Which slots of which prefix each row sees: row r attends to the slots [start[r], end[r]) of prefix row_prefix[r].

    Left padding is `start`, right padding is `end`, one prefix shared by many rows is `row_prefix`, an empty prefix is
    start == end. Build it once per batch: it is validated, sorted and grouped once and then used by every layer. It
    holds copies: what is written into the tensors later changes nothing here.

    Args:
        start: int32 or int64 [R], default 0.
        end: int32 or int64 [R], default the number of prefix slots C.
        row_prefix: int32 or int64 [R], default row r sees prefix r.

    Raises:
        TypeError: an argument is not an integer tensor.
        ValueError: shapes or devices disagree; with the cache: 0 <= start <= end <= C or 0 <= row_prefix < S is broken
            (values are looked at on a CPU, elsewhere under REAREC_DEBUG=1).

    Examples:
        >>> rows = PrefixRows(end=torch.tensor([2, 3, 3]), row_prefix=torch.tensor([0, 0, 1]))  # 3 rows, 2 prefixes
        >>> k = v = torch.zeros(2, 3, 1, 4)
        >>> ReasoningCache.from_prefix(k, v, max_tokens=1, rows=rows).rows
        3
    """

    def __init__(
        self, start: Tensor | None = None, end: Tensor | None = None, row_prefix: Tensor | None = None
    ) -> None:
        given = {"start": start, "end": end, "row_prefix": row_prefix}
        first: Tensor | None = None
        for name, x in given.items():
            if x is None:
                continue
            if not isinstance(x, Tensor) or x.dtype not in (torch.int32, torch.int64):
                raise TypeError(f"PrefixRows: {name} must be an int32 or int64 tensor [R], got {describe(x)}")
            if x.dim() != 1 or (first is not None and x.shape != first.shape):
                raise ValueError(
                    f"PrefixRows: {name} must have shape [R]{'' if first is None else f' = {list(first.shape)}'}, "
                    f"got {list(x.shape)}"
                )
            if first is not None and x.device != first.device:
                raise ValueError(f"PrefixRows: {name} is on {x.device}, expected {first.device}")
            first = x
        self._given = {name: None if x is None else x.clone() for name, x in given.items()}
        self._indices: list[tuple[int, int, RowIndex]] = []  # a dict would make sizes of torch.export constants

    def index(self, prefixes: int, slots: int, device: torch.device) -> RowIndex:
        """The rows against S = `prefixes` prefixes of C = `slots` slots; computed once and kept."""
        for known_prefixes, known_slots, index in self._indices:
            if known_prefixes == prefixes and known_slots == slots and index.start.device == device:
                return index
        index = self._resolve(prefixes, slots, device)
        self._indices.append((prefixes, slots, index))
        return index

    def _resolve(self, prefixes: int, slots: int, device: torch.device) -> RowIndex:
        rows = next((x.shape[0] for x in self._given.values() if x is not None), None)
        if rows is None:
            start, end = (torch.full((prefixes,), x, dtype=torch.int32, device=device) for x in (0, slots))
            identity, offsets = (torch.arange(prefixes + x, dtype=torch.int32, device=device) for x in (0, 1))
            return RowIndex(start, end, identity, identity, offsets)
        if self._given["row_prefix"] is None and rows != prefixes:
            raise ValueError(f"PrefixRows: {rows} rows for {prefixes} prefixes need row_prefix")
        for name, x in self._given.items():
            if x is not None and x.device != device:
                raise ValueError(f"PrefixRows: {name} is on {x.device}, the prefix on {device}")
        return RowIndex(*torch.ops.rearec.prefix_rows(*self._given.values(), prefixes, slots))


def index_of(op: str, rows: PrefixRows | None, prefix: Tensor) -> RowIndex:
    """The index of `rows`, where None means that row r sees all of prefix r, against K or V [S, C, Hkv, D] of prefixes.

    Raises:
        TypeError: `rows` is something else; ValueError: as PrefixRows says.
    """
    rows = PrefixRows() if rows is None else rows
    if not isinstance(rows, PrefixRows):
        raise TypeError(f"{op}: rows must be a PrefixRows, got {describe(rows)}")
    return rows.index(prefix.shape[0], prefix.shape[1], prefix.device)

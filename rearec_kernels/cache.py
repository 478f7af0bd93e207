"""What reasoning tokens attend to: which prefix slots each row sees, and the K/V of prefixes and reasoning tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.checks import checks_values, describe


class RowIndex(NamedTuple):
    """Rows resolved against a prefix: int32 tensors, validated. `order` sorts the rows by prefix, `offsets` [S + 1]
    delimits the rows of each prefix in it."""

    start: Tensor
    end: Tensor
    row_prefix: Tensor
    order: Tensor
    offsets: Tensor


class PrefixRows:
    """Which slots of which prefix each row sees: row r attends to the slots [start[r], end[r]) of prefix row_prefix[r].

    Left padding is `start`, right padding is `end`, one prefix shared by many rows is `row_prefix`, an empty prefix is
    start == end. Build it once per batch: it is validated, sorted and grouped once and then used by every layer.

    Args:
        start: int32 or int64 [R], default 0.
        end: int32 or int64 [R], default the number of prefix slots C.
        row_prefix: int32 or int64 [R], default row r sees prefix r.

    Raises:
        TypeError: an argument is not an integer tensor.
        ValueError: shapes or devices disagree; with the cache: 0 <= start <= end <= C or 0 <= row_prefix < S is broken
            (values are looked at on a CPU, elsewhere under REAREC_DEBUG=1).
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
        self._given = given
        self._indices: dict[tuple[int, int], RowIndex] = {}

    def index(self, prefixes: int, slots: int, device: torch.device) -> RowIndex:
        """The rows against S = `prefixes` prefixes of C = `slots` slots; computed once and kept."""
        key = (prefixes, slots)
        if key not in self._indices:
            self._indices[key] = self._resolve(prefixes, slots, device)
        return self._indices[key]

    def _resolve(self, prefixes: int, slots: int, device: torch.device) -> RowIndex:
        rows = next((x.shape[0] for x in self._given.values() if x is not None), prefixes)
        row_prefix = self._given["row_prefix"]
        if row_prefix is None and rows != prefixes:
            raise ValueError(f"PrefixRows: {rows} rows for {prefixes} prefixes need row_prefix")
        for name, x in self._given.items():
            if x is not None and x.device != device:
                raise ValueError(f"PrefixRows: {name} is on {x.device}, the prefix on {device}")

        if checks_values(device):
            self._check_values(rows, prefixes, slots, device)

        def int32(x: Tensor | None, default: int) -> Tensor:
            if x is None:
                return torch.full((rows,), default, dtype=torch.int32, device=device)
            return x.to(torch.int32).contiguous()

        start, end = int32(self._given["start"], 0), int32(self._given["end"], slots)
        identity = torch.arange(rows, dtype=torch.int32, device=device)
        if row_prefix is None:
            return RowIndex(start, end, identity, identity, _offsets(rows, device))
        row_prefix = int32(row_prefix, 0)
        # Every row a prefix of its own is what inference on a CPU mostly sees; elsewhere a look would synchronise.
        if rows == prefixes and checks_values(device) and torch.equal(row_prefix, identity):
            return RowIndex(start, end, identity, identity, _offsets(rows, device))
        order = torch.argsort(row_prefix, stable=True)
        boundaries = torch.arange(prefixes + 1, dtype=torch.int32, device=device)
        offsets = torch.searchsorted(row_prefix[order], boundaries, out_int32=True)
        return RowIndex(start, end, row_prefix, order.to(torch.int32), offsets)

    def _check_values(self, rows: int, prefixes: int, slots: int, device: torch.device) -> None:
        """Looks at the values as they were given: int64 ones may not fit into the int32 they are kept in."""
        limits = {"start": slots, "end": slots, "row_prefix": prefixes - 1}
        start, end = self._given["start"], self._given["end"]
        fits = all(_lies_within(x, limits[name]) for name, x in self._given.items() if x is not None)
        if fits and (start is None or end is None or not bool((end < start).any())):
            return
        # A default row_prefix is right, and 0 is a prefix unless there is none.
        defaults = {"start": 0, "end": slots, "row_prefix": 0}
        start, end, row_prefix = (
            torch.full((rows,), defaults[name], device=device) if x is None else x for name, x in self._given.items()
        )
        wrong = (start < 0) | (end < start) | (end > slots) | (row_prefix < 0) | (row_prefix >= prefixes)
        r = int(wrong.nonzero()[0])
        raise ValueError(
            f"PrefixRows: row {r} has start {int(start[r])}, end {int(end[r])}, row_prefix "
            f"{int(row_prefix[r])}; expected 0 <= start <= end <= {slots} and 0 <= row_prefix < {prefixes}"
        )


def _lies_within(x: Tensor, limit: int) -> bool:
    """Whether all values are in [0, limit]."""
    if x.numel() == 0:
        return True
    low, high = torch.aminmax(x)
    return int(low) >= 0 and int(high) <= limit


def check_prefix(op: str, k: Tensor, v: Tensor) -> None:
    """Raises unless k and v are a prefix's K and V: [S, C, Hkv, D], any outer strides, the last dimension dense."""
    for name, x in (("k", k), ("v", v)):
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"{op}: {name} must be a floating-point tensor, got {describe(x)}")
        shape = x.shape
        if len(shape) != 4:
            raise ValueError(f"{op}: {name} must have shape [S, C, Hkv, D], got {list(shape)}")
        if shape[3] == 0 or shape[2] == 0:
            raise ValueError(f"{op}: {name} needs at least one head of width 1, got {list(shape)}")
        if x.stride(3) != 1 and shape[3] != 1:
            raise ValueError(f"{op}: the last dimension of {name} must be dense, strides {x.stride()}")
    if k.shape != v.shape or k.dtype != v.dtype or k.device != v.device:
        raise ValueError(f"{op}: k and v must agree, got {describe(k)} on {k.device} and {describe(v)} on {v.device}")


def _offsets(rows: int, device: torch.device) -> Tensor:
    return torch.arange(rows + 1, dtype=torch.int32, device=device)


class ReasoningCache:
    """K/V of the prefixes (kept by reference, never copied) and of the reasoning tokens appended so far.

    Make one per layer and batch with `from_prefix`; `cached_reason_attention` appends to it. Without gradients the
    reasoning tokens live in one buffer [R, max_tokens, Hkv, D] written in place; with gradients each step keeps its own
    tensors, so that autograd can reach them.

    Attributes:
        length: reasoning tokens appended so far.
        max_tokens: how many there may be.
        rows: number of rows R.
    """

    def __init__(self, k: Tensor, v: Tensor, index: RowIndex, max_tokens: int) -> None:
        self.prefix_k, self.prefix_v = k, v
        self.index = index
        self.max_tokens = max_tokens
        self.length = 0
        self._buffer: tuple[Tensor, Tensor] | None = None
        # Tokens appended with gradients, or after some of them: (k, v) of each call, in order.
        self._segments: list[tuple[Tensor, Tensor]] = []
        self._carriers: list[list[Tensor]] = []
        self._carrier_shape: tuple[int, int] | None = None

    @staticmethod
    def from_prefix(k: Tensor, v: Tensor, *, max_tokens: int, rows: PrefixRows | None = None) -> ReasoningCache:
        """Opens a cache over the prefixes' K and V.

        Args:
            k, v: [S, C, Hkv, D], any outer strides, the last dimension dense.
            max_tokens: reasoning tokens each row may append, at least 1.
            rows: which slots each row sees; default: row r sees all of prefix r.

        Raises:
            TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        """
        check_prefix("ReasoningCache", k, v)
        if not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1:
            raise ValueError(f"ReasoningCache: max_tokens must be an int of at least 1, got {max_tokens!r}")
        if rows is None:
            rows = PrefixRows()
        if not isinstance(rows, PrefixRows):
            raise TypeError(f"ReasoningCache: rows must be a PrefixRows, got {describe(rows)}")
        return ReasoningCache(k, v, rows.index(k.shape[0], k.shape[1], k.device), max_tokens)

    @property
    def rows(self) -> int:
        return self.index.start.shape[0]

    def reset(self) -> None:
        """Forgets the reasoning tokens; the prefix stays."""
        self.length = 0
        self._segments = []

    def select(self, row_ids: Tensor) -> ReasoningCache:
        """A cache of the rows `row_ids` (int64 [R'], repeats allowed) with their tokens: early exit, beams.

        Raises:
            TypeError: row_ids is not an integer tensor [R'].
            IndexError: a row id is not in [0, R).
        """
        if not isinstance(row_ids, Tensor) or row_ids.dtype not in (torch.int32, torch.int64) or row_ids.dim() != 1:
            raise TypeError(f"ReasoningCache.select: row_ids must be an int64 tensor [R'], got {describe(row_ids)}")
        if checks_values(row_ids.device) and row_ids.numel() > 0:
            low, high = int(row_ids.min()), int(row_ids.max())
            if low < 0 or high >= self.rows:
                raise IndexError(f"ReasoningCache.select: row ids from {low} to {high}, expected 0 to {self.rows - 1}")
        ids = row_ids.long()
        rows = PrefixRows(self.index.start[ids], self.index.end[ids], self.index.row_prefix[ids])
        chosen = ReasoningCache.from_prefix(self.prefix_k, self.prefix_v, max_tokens=self.max_tokens, rows=rows)
        if self._segments:
            chosen._segments = [(k[ids], v[ids]) for k, v in self._segments]
        elif self._buffer is not None:
            chosen._buffer = (self._buffer[0][ids], self._buffer[1][ids])
        chosen.length = self.length
        return chosen

    # --- used by cached_reason_attention ---

    def holds_segments(self) -> bool:
        """Whether tokens are kept as tensors of their own; from then on, all of them are."""
        return bool(self._segments)

    def requires_grad(self) -> bool:
        """Whether the prefix or a reasoning token takes part in autograd."""
        tokens = (x for segment in self._segments for x in segment)
        return self.prefix_k.requires_grad or self.prefix_v.requires_grad or any(x.requires_grad for x in tokens)

    def buffer(self) -> tuple[Tensor, Tensor]:
        """The in-place buffers of the reasoning tokens, [R, max_tokens, Hkv, D] each."""
        if self._buffer is None:
            shape = (self.rows, self.max_tokens, *self.prefix_k.shape[2:])
            k = torch.empty(shape, dtype=self.prefix_k.dtype, device=self.prefix_k.device)
            self._buffer = (k, torch.empty_like(k))
        return self._buffer

    def append(self, slot: int, k: Tensor, v: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
        """Keeps k, v [R, Q, Hkv, D] as tensors of their own at token `slot`; returns the tokens up to and with them.

        Raises:
            ValueError: `slot` lies inside tokens that one earlier call appended together.
        """
        if not self._segments and self.length > 0:  # tokens from before gradients were wanted: constants
            buffer_k, buffer_v = self.buffer()
            self._segments = [(buffer_k[:, i : i + 1], buffer_v[:, i : i + 1]) for i in range(self.length)]
            self._buffer = None
        position, first = 0, 0
        while position < len(self._segments) and first < slot:
            first += self._segments[position][0].shape[1]
            position += 1
        replaces = position < len(self._segments)
        if first != slot or (replaces and self._segments[position][0].shape[1] != k.shape[1]):
            raise ValueError(
                f"cached_reason_attention: step {slot} does not start where an earlier call's tokens start"
            )
        self._segments[position : position + 1] = [(k, v)]
        return self._segments[: position + 1]

    def carriers(self, queries: int, heads: int, backend: str) -> list[Tensor]:
        """Four tensors without data whose gradients bring one step's (ds, p, q, do) to the node that opened the prefix.

        Each is handed out once: a step that runs again opens the prefix again, and autograd adds the two.
        """
        if not (self.prefix_k.requires_grad or self.prefix_v.requires_grad):
            return []
        if not self._carriers or self._carrier_shape != (queries, heads):
            steps = -(-self.max_tokens // queries)
            flat = torch.ops.rearec.attention_open_prefix(
                self.prefix_k, self.prefix_v, *self.index, steps, queries, heads, backend
            )
            self._carriers = [flat[i : i + 4] for i in range(0, len(flat), 4)]
            self._carrier_shape = (queries, heads)
        return self._carriers.pop(0)

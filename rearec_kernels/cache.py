"""What reasoning tokens attend to: the K/V of prefixes and of the tokens appended so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.checks import as_int, describe
from rearec_kernels.rows import PrefixRows, RowIndex


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
        try:
            max_tokens = as_int("ReasoningCache", "max_tokens", max_tokens, least=1)
        except (TypeError, ValueError):
            raise ValueError(f"ReasoningCache: max_tokens must be an int of at least 1, got {max_tokens!r}") from None
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
        ids = torch.ops.rearec.checked_index(row_ids, self.rows - 1, "ReasoningCache.select: row_ids")
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

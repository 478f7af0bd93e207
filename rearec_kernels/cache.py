"""What reasoning tokens attend to: the K/V of prefixes and of the tokens appended so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, describe
from rearec_kernels.ops.arguments import Rows
from rearec_kernels.rows import PrefixRows, RowIndex


def _may_be_in_backward() -> bool:
    """Whether a backward pass calls; torch.compile cannot tell."""
    return torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1


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


class _Segment(NamedTuple):
    """Tokens that one call appended, [R, Q, Hkv, D] each, and whether autograd recorded the call."""

    k: Tensor
    v: Tensor
    recorded: bool

    @property
    def tokens(self) -> int:
        return self.k.shape[1]

    @property
    def constant(self) -> bool:
        """Whether they can have no gradient: what appended them ran without, and so did what made them."""
        return not self.recorded and not (self.k.requires_grad and self.v.requires_grad)


class ReasoningCache:
    """K/V of the prefixes (kept by reference, never copied) and of the reasoning tokens appended so far.

    Make one per layer and batch with `from_prefix`; `cached_reason_attention` appends to it. Without gradients the
    reasoning tokens live in one buffer [R, max_tokens, Hkv, D] written in place; with gradients each step keeps its own
    tensors, so that autograd can reach them. A copy has tokens of its own; a shallow one shares the prefix.

    Attributes:
        length: reasoning tokens appended so far.
        max_tokens: how many there may be.
        rows: number of rows R.
    """

    def __init__(self, k: Tensor, v: Tensor, index: RowIndex, max_tokens: int) -> None:
        self.prefix_k, self.prefix_v = k, v
        self.index, self.seen = index, Rows(index.start, index.end, index.row_prefix, index.order)
        self.max_tokens = max_tokens
        self.length = 0
        self._buffer: tuple[Tensor, Tensor] | None = None
        # Tokens appended with gradients, or after some of them: of each call, in order.
        self._segments: list[_Segment] = []
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

    def __copy__(self) -> ReasoningCache:
        copied = ReasoningCache(self.prefix_k, self.prefix_v, self.index, self.max_tokens)
        copied.length, copied._segments = self.length, [*self._segments]
        copied._buffer = None if self._buffer is None else (self._buffer[0].clone(), self._buffer[1].clone())
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_carriers": []}  # nodes of autograd, each handed out once

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
            chosen._segments = [_Segment(k[ids], v[ids], recorded) for k, v, recorded in self._segments]
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
        tokens = (segment.k.requires_grad or segment.v.requires_grad for segment in self._segments)
        return self.prefix_k.requires_grad or self.prefix_v.requires_grad or any(tokens)

    def buffer(self) -> tuple[Tensor, Tensor]:
        """The in-place buffers of the reasoning tokens, [R, max_tokens, Hkv, D] each."""
        if self._buffer is None:
            shape = (self.rows, self.max_tokens, *self.prefix_k.shape[2:])
            k = torch.empty(shape, dtype=self.prefix_k.dtype, device=self.prefix_k.device)
            self._buffer = (k, torch.empty_like(k))
        return self._buffer

    def append(self, slot: int, k: Tensor, v: Tensor, recorded: bool) -> Sequence[_Segment]:
        """Keeps k, v [R, Q, Hkv, D] as tensors of their own at token `slot`; returns the tokens up to and with them.

        Args:
            recorded: whether autograd records the call.

        Raises:
            ValueError: `slot` lies inside tokens that one earlier call appended together.
            RuntimeError: a backward pass computes again what was first computed without gradients.
        """
        if not self._segments and self.length > 0:  # tokens from before gradients were wanted: constants
            buffer_k, buffer_v = self.buffer()
            tokens = (slice(i, i + 1) for i in range(self.length))
            self._segments = [_Segment(buffer_k[:, i], buffer_v[:, i], recorded=False) for i in tokens]
            self._buffer = None
        position, first = 0, 0
        while position < len(self._segments) and first < slot:
            first += self._segments[position].tokens
            position += 1
        replaced = self._segments[position : position + 1]
        if first != slot or any(segment.tokens != k.shape[1] for segment in replaced):
            raise ValueError(
                f"cached_reason_attention: step {slot} does not start where an earlier call's tokens start"
            )
        appended = [*self._segments[:position], _Segment(k, v, recorded)]
        if recorded and replaced and not replaced[0].recorded and _may_be_in_backward():
            self._check_late_gradients(slot, position)
            if not replaced[0].constant:
                return appended  # later steps have their gradient by what is there
        self._segments[: position + 1] = appended
        return appended

    def _check_late_gradients(self, slot: int, position: int) -> None:
        """A backward pass computes a step with gradients that ran without at first: torch.utils.checkpoint with
        use_reentrant=True. Raises where a token that it sees, or that a recorded step saw, was taken for a constant."""
        late = self._segments[position].constant and any(x.recorded for x in self._segments[position + 1 :])
        if late or any(segment.constant for segment in self._segments[:position]):
            raise RuntimeError(
                f"cached_reason_attention: a backward pass computes step {slot} again, which was first computed "
                "without gradients, as torch.utils.checkpoint does with use_reentrant=True; use use_reentrant=False"
            )

    def carriers(self, queries: int, heads: int, backend: str) -> list[Tensor]:
        """Four tensors without data whose gradients bring one step's (ds, p, q, do) to the node that opened the prefix.

        Each is handed out once: a step that runs again opens the prefix again, and autograd adds the two.
        """
        if not (self.prefix_k.requires_grad or self.prefix_v.requires_grad):
            return []
        if not self._carriers or self._carrier_shape != (queries, heads):
            steps = -(-self.max_tokens // queries)
            flat = torch.ops.rearec.attention_open_prefix(
                self.prefix_k, self.prefix_v, self.index.offsets, steps, queries, heads, *self.seen, backend
            )
            self._carriers = [flat[i : i + 4] for i in range(0, len(flat), 4)]
            self._carrier_shape = (queries, heads)
        return self._carriers.pop(0)

"""What reasoning tokens attend to: the K/V of prefixes, and of the tokens appended so far."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels.arguments import as_int, check_prefix, describe
from rearec_kernels.ops.arguments import Rows
from rearec_kernels.rows import PrefixRows, RowIndex, index_of
from rearec_kernels.tokens import ReasoningTokens


class PrefixCarriers:
    """Tensors without data whose gradients bring what each step of attention knows to the node of autograd that
    computes the gradient of the prefix, of all steps at once (`ops.attention`)."""

    def __init__(self) -> None:
        self._left: list[list[Tensor]] = []
        self._made_for: tuple[int, int] | None = None

    def take(self, cache: ReasoningCache, queries: int, heads: int, backend: str) -> list[Tensor]:
        """Four of them, for (ds, p, q, do) of one step; none where the prefix needs no gradient.

        Each is handed out once: a step that runs again opens the prefix again, and autograd adds the two.
        """
        if not (cache.prefix_k.requires_grad or cache.prefix_v.requires_grad):
            return []
        if not self._left or self._made_for != (queries, heads):
            steps = -(-cache.max_tokens // queries)
            flat = torch.ops.rearec.attention_open_prefix(
                cache.prefix_k, cache.prefix_v, cache.index.offsets, steps, queries, heads, *cache.seen, backend
            )
            self._left = [flat[i : i + 4] for i in range(0, len(flat), 4)]
            self._made_for = (queries, heads)
        return self._left.pop(0)


class ReasoningCache:
    """K/V of the prefixes (kept by reference, never copied) and of the reasoning tokens appended so far.

    Make one per layer and batch with `from_prefix`; `cached_reason_attention` appends to it. Without gradients the
    reasoning tokens live in one buffer [R, max_tokens, Hkv, D] written in place; with gradients each step keeps its own
    tensors, so that autograd can reach them. A copy has tokens of its own; a shallow one shares the prefix.

    Attributes:
        prefix_k, prefix_v: [S, C, Hkv, D], as given.
        max_tokens: how many reasoning tokens there may be.
        index: which slots each row sees.
        tokens, carriers: the state of `cached_reason_attention`.

    Examples:
        >>> k, v = torch.zeros(1, 3, 2, 4), torch.ones(1, 3, 2, 4)
        >>> cache = ReasoningCache.from_prefix(k, v, max_tokens=2)
        >>> token = torch.ones(1, 2, 4)
        >>> cached_reason_attention(token, token, token, cache).shape
        torch.Size([1, 2, 4])
        >>> cache.length, cache.rows
        (1, 1)
        >>> cache.reset()
        >>> cache.length
        0
    """

    def __init__(self, k: Tensor, v: Tensor, index: RowIndex, max_tokens: int) -> None:
        self.prefix_k, self.prefix_v = k, v
        self.index, self.seen = index, Rows(index.start, index.end, index.row_prefix, index.order)
        self.max_tokens = max_tokens
        self.tokens = ReasoningTokens(self.rows, max_tokens, k)
        self.carriers = PrefixCarriers()

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
        return ReasoningCache(k, v, index_of("ReasoningCache", rows, k), max_tokens)

    def __copy__(self) -> ReasoningCache:
        copied = ReasoningCache(self.prefix_k, self.prefix_v, self.index, self.max_tokens)
        copied.tokens = copy.copy(self.tokens)
        return copied

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "carriers": PrefixCarriers()}  # the others are nodes of this one's graph

    @property
    def length(self) -> int:
        """Reasoning tokens appended so far, of each row."""
        return self.tokens.length

    @property
    def rows(self) -> int:
        """Number of rows R."""
        return self.index.start.shape[0]

    def reset(self) -> None:
        """Forgets the reasoning tokens; the prefix stays."""
        self.tokens.clear()

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
        chosen.tokens = self.tokens.select(ids)
        return chosen

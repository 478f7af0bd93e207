"""The K/V of the reasoning tokens of one cache, as `cached_reason_attention` appends them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
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


class ReasoningTokens:
    """The tokens, in one of two forms: without gradients, one buffer for all, written in place; from the first call
    with gradients on, the tensors that each call appended, so that autograd can reach them.

    Attributes:
        length: tokens appended so far, of each row.
        segments: in the second form, what each call appended, in order; else empty.
    """

    def __init__(self, rows: int, max_tokens: int, prefix: Tensor) -> None:
        self._shape = (rows, max_tokens, *prefix.shape[2:])
        self._dtype, self._device = prefix.dtype, prefix.device
        self._buffer: tuple[Tensor, Tensor] | None = None
        self.length = 0
        self.segments: list[Segment] = []

    def __copy__(self) -> ReasoningTokens:
        """Goes on apart from this one. Tensors of segments are never written, so that both may hold them."""
        copied = ReasoningTokens.__new__(ReasoningTokens)
        copied.__dict__.update(self.__dict__)
        copied.segments = [*self.segments]
        copied._buffer = None if self._buffer is None else (self._buffer[0].clone(), self._buffer[1].clone())
        return copied

    def clear(self) -> None:
        """Forgets all tokens; the buffer stays for the next ones."""
        self.length = 0
        self.segments = []

    def select(self, ids: Tensor) -> ReasoningTokens:
        """The tokens of the rows `ids`, an index."""
        chosen = copy.copy(self)
        chosen._shape = (ids.shape[0], *self._shape[1:])
        chosen.segments = [Segment(k[ids], v[ids], recorded) for k, v, recorded in self.segments]
        chosen._buffer = None if self._buffer is None else (self._buffer[0][ids], self._buffer[1][ids])
        return chosen

    def requires_grad(self) -> bool:
        """Whether a token takes part in autograd."""
        return any(segment.k.requires_grad or segment.v.requires_grad for segment in self.segments)

    def buffer(self) -> tuple[Tensor, Tensor]:
        """The buffers of the first form, [R, max_tokens, Hkv, D] each."""
        if self._buffer is None:
            k = torch.empty(self._shape, dtype=self._dtype, device=self._device)
            self._buffer = (k, torch.empty_like(k))
        return self._buffer

    def append(self, slot: int, k: Tensor, v: Tensor, recorded: bool) -> Sequence[Segment]:
        """Keeps k, v [R, Q, Hkv, D] in the second form at token `slot`; returns the tokens up to and with them.

        Args:
            recorded: whether autograd records the call.

        Raises:
            ValueError: `slot` lies inside tokens that one earlier call appended together.
            RuntimeError: a backward pass computes again what was first computed without gradients.
        """
        if not self.segments and self.length > 0:  # tokens from before gradients were wanted: constants
            buffer_k, buffer_v = self.buffer()
            tokens = (slice(i, i + 1) for i in range(self.length))
            self.segments = [Segment(buffer_k[:, i], buffer_v[:, i], recorded=False) for i in tokens]
            self._buffer = None
        position, first = 0, 0
        while position < len(self.segments) and first < slot:
            first += self.segments[position].tokens
            position += 1
        replaced = self.segments[position : position + 1]
        if first != slot or any(segment.tokens != k.shape[1] for segment in replaced):
            raise ValueError(
                f"cached_reason_attention: step {slot} does not start where an earlier call's tokens start"
            )
        appended = [*self.segments[:position], Segment(k, v, recorded)]
        if recorded and replaced and not replaced[0].recorded and _may_be_in_backward():
            self._check_late_gradients(slot, position)
            if not replaced[0].constant:
                return appended  # later steps have their gradient by what is there
        self.segments[: position + 1] = appended
        return appended

    def _check_late_gradients(self, slot: int, position: int) -> None:
        """A backward pass computes a step with gradients that ran without at first: torch.utils.checkpoint with
        use_reentrant=True. Raises where a token that it sees, or that a recorded step saw, was taken for a constant."""
        late = self.segments[position].constant and any(x.recorded for x in self.segments[position + 1 :])
        if late or any(segment.constant for segment in self.segments[:position]):
            raise RuntimeError(
                f"cached_reason_attention: a backward pass computes step {slot} again, which was first computed "
                "without gradients, as torch.utils.checkpoint does with use_reentrant=True; use use_reentrant=False"
            )


def _may_be_in_backward() -> bool:
    """Whether this runs inside a backward pass; under torch.compile, which cannot tell, True."""
    return torch.compiler.is_compiling() or torch._C._current_graph_task_id() != -1

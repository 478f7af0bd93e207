"""Whether tensors were written since something was derived from them, as far as that can be told quickly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SAMPLES = 64  # of each tensor
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # by which NaN equals itself


class WriteMark:
    """Tensors as they are now: their memory, how often they were written in place, and some of their values.

    Not every write counts itself: those through ``.data``, those of a fused optimiser and those to tensors made in
    inference mode do not. A step of training changes every weight that takes part in it, so values from all over a
    tensor tell; a write to a few elements may go unseen. On a GPU, where a look at values would wait for the device,
    only writes that count themselves are seen.

    Args:
        may_move: other memory with the same values counts as no write: nobody else can give the tensors other memory,
            but torch moves a tensor that goes to another process into shared memory.
    """

    def __init__(self, tensors: Sequence[Tensor], may_move: bool = False) -> None:
        self._tensors = list(tensors)
        self._may_move = may_move
        self._counting = [x for x in self._tensors if not x.is_inference()]
        self._samples = [_sample(x) for x in self._tensors if x.device.type == "cpu" and x.numel() > 0]
        self._counts, self._values = self._look(), self._sampled()

    def is_current(self) -> bool:
        """Whether nothing was seen to be written since."""
        if self._look() != self._counts:
            return False
        return self._values is None or torch.equal(torch.cat(self._samples), self._values)

    def _look(self) -> tuple[list[int], list[int]]:
        memory = [] if self._may_move else [x.data_ptr() for x in self._tensors]
        return [x._version for x in self._counting], memory

    def _sampled(self) -> Tensor | None:
        return torch.cat(self._samples) if self._samples else None


def _sample(x: Tensor) -> Tensor:
    """A view of values from all over the memory that the tensor lies in."""
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    bits = x.detach().view(_BITS[x.element_size()])
    return bits.as_strided((min(span, _SAMPLES),), (max(1, span // _SAMPLES),))

"""Tensors that inference derives from weights, kept until the weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rearec.models.weight_sample import WeightSample

__all__ = ["Derived"]

T = TypeVar("T")


class Derived(Generic[T]):
    """What `compute` makes of weights: made once for inference, every time in training or with gradients.

    Weights that are replaced, moved, written in place or trained are noticed (see `WeightSample`). Threads may share
    one.
    """

    def __init__(self) -> None:
        self.forget()

    def __reduce__(self) -> tuple[type[Derived[T]], tuple[()]]:
        """A copy derives its own."""
        return Derived, ()

    def forget(self) -> None:
        """Derive anew in the next call."""
        self._kept: _Kept[T] | None = None

    def get(self, module: nn.Module, weights: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """The value for the weights as they are now; ``module`` tells whether it is trained."""
        if torch.is_grad_enabled() or module.training or torch.compiler.is_compiling():
            self.forget()
            return compute()
        kind = weights[0].device.type
        # Values cannot be looked at in a CUDA graph; what is computed there is written anew by every replay.
        captured = kind == "cuda" and torch.cuda.is_current_stream_capturing()
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        kept = self._kept  # looked at once: other threads may replace it
        known = kept is not None and kept.autocast == autocast and kept.is_unwritten(weights)
        if kept is not None and known and (captured or kept.sample.is_current()):
            return kept.value
        if captured:
            return compute()
        # Taken before the value: weights that are written meanwhile make it another one's.
        of, sample = [(x.detach(), _version(x)) for x in weights], WeightSample(*weights)
        value = compute()
        self._kept = _Kept(value, autocast, of, sample)
        return value


@dataclass(frozen=True)
class _Kept(Generic[T]):
    value: T
    autocast: torch.dtype | None
    # Each weight and how often it had been written: as long as they are kept, no other takes their memory.
    of: list[tuple[Tensor, int]]
    sample: WeightSample

    def is_unwritten(self, weights: Sequence[Tensor]) -> bool:
        return len(weights) == len(self.of) and all(
            x.is_set_to(before) and _version(x) == version
            for x, (before, version) in zip(weights, self.of, strict=True)
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

"""Tensors that inference derives from weights, kept until the weights change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from rearec.models.weight_sample import WeightSample

__all__ = ["Derived"]

T = TypeVar("T")


class Derived(Generic[T]):
    """What `compute` makes of weights: made once for inference, every time in training or with gradients.

    Weights that are replaced, moved, written in place or trained are noticed (see `WeightSample`).
    """

    def __init__(self) -> None:
        self.forget()

    def __reduce__(self) -> tuple[type[Derived[T]], tuple[()]]:
        """A copy derives its own."""
        return Derived, ()

    def forget(self) -> None:
        """Derive anew in the next call."""
        self._value: T | None = None
        # Each weight and how often it had been written: as long as they are kept, no other takes their memory.
        self._of: list[tuple[Tensor, int]] = []
        self._autocast: torch.dtype | None = None
        self._sample = WeightSample()

    def get(self, module: nn.Module, weights: Sequence[Tensor], compute: Callable[[], T]) -> T:
        """The value for the weights as they are now; ``module`` tells whether it is trained."""
        if torch.is_grad_enabled() or module.training or torch.compiler.is_compiling():
            self.forget()
            return compute()
        kind = weights[0].device.type
        # Values cannot be looked at in a CUDA graph; what is computed there is written anew by every replay.
        captured = kind == "cuda" and torch.cuda.is_current_stream_capturing()
        autocast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
        value = self._value
        current = value is not None and autocast == self._autocast and self._unwritten(weights)
        if value is not None and current and (captured or self._sample.is_current()):
            return value
        value = compute()
        if not captured:
            self._value, self._autocast = value, autocast
            self._of = [(x.detach(), _version(x)) for x in weights]
            self._sample = WeightSample(*weights)
        return value

    def _unwritten(self, weights: Sequence[Tensor]) -> bool:
        return len(weights) == len(self._of) and all(
            x.is_set_to(before) and _version(x) == version
            for x, (before, version) in zip(weights, self._of, strict=True)
        )


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version

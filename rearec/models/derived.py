"""Tensors that inference derives from weights, kept until the weights change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import nn

from rearec.models.weight_sample import WeightSample

__all__ = ["Derived"]

T = TypeVar("T")


class Derived(Generic[T]):
    """What `compute` makes of a module's weights: made once for inference, every time in training or with gradients.

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
        self._of: list[tuple[int, int]] = []
        self._sample = WeightSample()

    def get(self, module: nn.Module, compute: Callable[[], T]) -> T:
        """The value for the weights of `module` as they are now."""
        if torch.is_grad_enabled() or module.training or torch.compiler.is_compiling():
            self.forget()
            return compute()
        of = [(id(x), 0 if x.is_inference() else x._version) for x in (*module.parameters(), *module.buffers())]
        if self._value is None or of != self._of or not self._sample.is_current():
            self._value, self._of = compute(), of
            self._sample = WeightSample(*module.parameters())
        return self._value

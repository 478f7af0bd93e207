"""Evaluation mode for as long as anybody computes with a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

__all__ = ["evaluation_mode"]


class _Use:
    """How many are inside, and the modules that were in training mode when the first one came in."""

    def __init__(self) -> None:
        self.inside = 0
        self.trained: list[nn.Module] = []


_lock = threading.Lock()
_uses: WeakKeyDictionary[nn.Module, _Use] = WeakKeyDictionary()


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode as long as any thread is inside; the last one out puts back the mode of every module.

    All engines of one model share this, so that none puts it back while another computes.
    """
    with _lock:
        use = _uses.setdefault(model, _Use())
        use.inside += 1
        # Looking at the mode of all modules takes less time than setting it.
        if use.inside == 1 and _is_any_trained(model):
            use.trained = [module for module in model.modules() if module.training]
            model.eval()
    try:
        yield
    finally:
        with _lock:
            use.inside -= 1
            if use.inside == 0 and use.trained:
                if model in use.trained:
                    model.train()
                trained, use.trained = set(use.trained), []
                for module in model.modules():
                    module.training = module in trained


def _is_any_trained(model: nn.Module) -> bool:
    """Whether the model or a part of it is in training mode; `model.modules()` takes twenty times as long."""
    parts: list[nn.Module | None] = [model]
    while parts:
        part = parts.pop()
        if part is not None:
            if part.training:
                return True
            parts += part._modules.values()
    return False

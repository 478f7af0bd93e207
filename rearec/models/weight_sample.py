"""Tells whether weights were trained since: torch does not count what fused optimisers write."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["WeightSample"]

_ROWS = 64


class WeightSample:
    """Some values of weights, as they were when this was made.

    A step of an optimiser changes every weight that takes part in training, but a fused one leaves no trace in
    ``Tensor._version``. So a few values tell what the version does not.
    """

    def __init__(self, *weights: Tensor) -> None:
        self._views = [x.detach()[:: max(1, x.shape[0] // _ROWS)] for x in weights]
        self._values = [view.clone() for view in self._views]

    def is_current(self) -> bool:
        """Whether the weights still hold these values."""
        return all(map(torch.equal, self._views, self._values))

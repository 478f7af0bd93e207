"""Helpers of the argument checks: how an argument is named in an error, and when its values are looked at."""

from __future__ import annotations

import os

import torch
from torch import Tensor


def describe(x: object) -> str:
    """What was got, for an error message: dtype and shape of a tensor, else the type."""
    return f"{x.dtype} {list(x.shape)}" if isinstance(x, Tensor) else type(x).__name__


def checks_values(device: torch.device) -> bool:
    """Whether to look at tensor values: always on a CPU, elsewhere only under REAREC_DEBUG=1 (it synchronises)."""
    if torch.compiler.is_compiling():
        return False
    return device.type == "cpu" or os.environ.get("REAREC_DEBUG") == "1"

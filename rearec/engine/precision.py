"""The precision in which an engine computes the states of histories."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch

from rearec.engine.words import STATE_PRECISIONS, StatePrecision
from rearec.errors import UserError
from rearec_kernels import build_info

__all__ = ["check_precision", "in_precision", "warn_where_slow"]


def check_precision(precision: str) -> None:
    """UserError unless it is a precision of states."""
    if precision not in STATE_PRECISIONS:
        raise UserError(f"precision: got {precision!r}, expected {' or '.join(STATE_PRECISIONS)}")


def in_precision(precision: StatePrecision, device: torch.device) -> AbstractContextManager[object]:
    """For a pass without gradients: with "bf16", PyTorch's products take operands of bfloat16.

    With "fp32" all is as the caller has it, an autocast included.
    """
    if precision == "fp32":
        return nullcontext()
    # A graph of the GPU may not read what a cache holds, which is freed when the mode ends.
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=device.type == "cpu")


def warn_where_slow(precision: StatePrecision, device: torch.device) -> None:
    """Says so where bf16 takes longer than fp32: on a CPU that has no products of bfloat16."""
    if precision == "bf16" and device.type == "cpu" and build_info()["tiles"] in ("portable", "none"):
        warnings.warn(
            "precision 'bf16': this processor has no products of bfloat16, so that 'fp32' is faster here", stacklevel=3
        )

"""The seed of dropout, and from which words on its stream keeps an element."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rearec_kernels.arguments import as_int, describe
from rearec_kernels.ops.arguments import MaskRows

# The rows of a call are all that there are.
ALL_ROWS = MaskRows(first=0, rows=1, of=1)


def dropout_threshold(dropout_p: float) -> int:
    """Dropout of attention drops the 32-bit words below this, as csrc/philox.h has it."""
    return min(math.ceil(dropout_p * 2.0**32), 0xFFFFFFFF)


def seed_bits(seed: Tensor | None) -> int:
    """The seed of a mask on the CPU as an unsigned 64-bit number, 0 where there is no dropout."""
    return 0 if seed is None else int(seed) & 0xFFFFFFFFFFFFFFFF


def checked_mask_rows(op: str, mask_rows: MaskRows | None) -> MaskRows:
    """`mask_rows`, or those of a call that has all rows for None. Raises for what are none."""
    if mask_rows is None:
        return ALL_ROWS
    if not isinstance(mask_rows, MaskRows):
        raise TypeError(f"{op}: mask_rows must be a MaskRows, got {describe(mask_rows)}")
    first, rows, of = (as_int(op, f"mask_rows.{name}", x) for name, x in zip(mask_rows._fields, mask_rows, strict=True))
    if first < 0 or rows < 1 or first + rows > of or of >= 2**31:
        raise ValueError(
            f"{op}: mask_rows must have first >= 0, rows >= 1 and first + rows <= of < 2^31, "
            f"got MaskRows(first={first}, rows={rows}, of={of})"
        )
    return MaskRows(first, rows, of)


def seed_tensor(op: str, seed: int | Tensor | None, device: torch.device) -> Tensor:
    """int64 [1]: a copy of `seed`, or one drawn from torch's generator for None. Raises for what is no seed."""
    if seed is None:
        return torch.randint(-(2**63), 2**63 - 1, (1,), dtype=torch.int64, device=device)
    if isinstance(seed, Tensor):
        if seed.dtype != torch.int64 or seed.numel() != 1 or seed.device != device:
            raise ValueError(
                f"{op}: seed must be an int or int64 [1] on {device}, got {describe(seed)} on {seed.device}"
            )
        return seed.clone().view(1)  # a backward pass reads it again, whatever becomes of the caller's
    number = as_int(op, "seed", seed)
    return torch.full((1,), number, dtype=torch.int64, device=device)  # a copy from the host would wait for the device

"""Row chunks, which keep the logits of all rows and steps from being in memory at once, and operands of products."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rearec_kernels.precision import accumulate_dtype, rounded

CHUNK_LOGITS = 2**22


def row_chunks(rows: int, logits_per_row: int) -> Iterator[slice]:
    size = max(1, CHUNK_LOGITS // max(1, logits_per_row))
    return (slice(first, first + size) for first in range(0, rows, size))


def operands(
    first: Tensor, second: Tensor, precision: str, valid: Tensor | None = None
) -> tuple[Tensor, Tensor, torch.dtype]:
    dtype = accumulate_dtype(first, second)
    # Ignored rows are zeroed, not left out: which they are is not known without waiting for the device.
    if valid is not None:
        first = first.masked_fill(~valid[:, None, None], 0.0)
    return rounded(first, precision, dtype), rounded(second, precision, dtype), dtype

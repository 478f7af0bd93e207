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


def product(first: Tensor, second: Tensor, precision: str) -> Tensor:
    """first @ second of operands. Under "bf16x3" both are cut into two bfloat16 parts; of their four products, that of
    the two small parts is left out."""
    if precision != "bf16x3":
        return first @ second
    (a, a_rest), (b, b_rest) = _two_parts(first), _two_parts(second)
    return a @ b + (a @ b_rest + a_rest @ b)


def _two_parts(x: Tensor) -> tuple[Tensor, Tensor]:
    large = x.to(torch.bfloat16).to(x.dtype)
    return large, (x - large).to(torch.bfloat16).to(x.dtype)

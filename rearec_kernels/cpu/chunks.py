"""How the CPU backend cuts its work, and where a part of a tensor lies."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rearec_kernels import precision as precisions

WHOLE_MATRIX = 2**22


def even_chunks(count: int, largest: int, multiple: int = 1) -> Iterator[slice]:
    """Of a multiple of so many, all but the last, where `largest` leaves room for it."""
    size = -(-count // -(-count // largest)) if count > 0 else 1
    if size > multiple and size < count:
        size = min(-(-size // multiple), largest // multiple) * multiple
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def part_of(rows: int, columns: int) -> int:
    """So many rows that a matrix that is not small is never there as a whole."""
    return max(1, rows if rows * columns <= WHOLE_MATRIX else -(-rows // 2))


def rounded(x: Tensor, precision: str) -> Tensor:
    """float32, rounded to bfloat16 before where the precision says so."""
    return precisions.rounded(x, precision, torch.float32)


def slice_address(x: Tensor, chunk: slice) -> int:
    return x.data_ptr() + chunk.start * x.stride(0) * x.element_size()

"""Memory for the CPU backend's large outputs and scratch, recycled between calls.

A block goes back to a small pool when the last tensor over it dies, up to REAREC_CPU_CACHE_MB (default 512; 0 recycles
nothing). See csrc/cpu/recycled_memory.h for why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.environment import whole_number

_LARGE_BYTES = 1 << 20


_limit = whole_number("REAREC_CPU_CACHE_MB", "megabytes", default=512, most=1 << 40) << 20
native.C.set_recycling_limit(_limit)


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.empty on the CPU, for large shapes over recycled memory."""
    count = 1
    for extent in shape:
        count *= extent
    size = count * dtype.itemsize
    if size < _LARGE_BYTES or _limit == 0:
        return torch.empty(tuple(shape), dtype=dtype, device="cpu")
    storage = torch.frombuffer(native.C.RecycledBlock(size), dtype=dtype, count=count).untyped_storage()
    return torch.empty(0, dtype=dtype, device="cpu").set_(storage, 0, tuple(shape))  # type: ignore[call-overload]


@contextmanager
def without_recycling() -> Iterator[None]:
    """Inside the block every allocation is torch's own, and what was kept is freed: to measure memory."""
    global _limit
    before, _limit = _limit, 0
    native.C.set_recycling_limit(0)
    try:
        yield
    finally:
        _limit = before
        native.C.set_recycling_limit(before)

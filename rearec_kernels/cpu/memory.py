"""Fresh memory for the CPU backend's large outputs and scratch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]

_LARGE_BYTES = 4 << 20


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.empty on the CPU; large ones ask for huge pages, because touching them page by page costs like a kernel."""
    x = torch.empty(tuple(shape), dtype=dtype)
    size = x.numel() * x.element_size()
    if size >= _LARGE_BYTES:
        _C.prefer_huge_pages(x.data_ptr(), size)
    return x

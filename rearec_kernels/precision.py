"""The precisions of losses and retrieval: what is done to the operands of a product, and what a product may do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from rearec_kernels import native

PRECISIONS = ("fp32", "tf32", "bf16", "bf16x3")
RETRIEVAL_PRECISIONS = ("fp32", "tf32", "bf16")
# The others: by every backend.
_SERVED_BY = {"tf32": ("triton",), "bf16x3": ("reference", *(() if native.AMX is None else ("cpu",)))}
_NEEDS = {
    "tf32": "a GPU and the backend 'triton'",
    "bf16x3": "CPU tensors and kernels for AMX, which not every machine and build has",
}


def check_precision(
    op: str, precision: str, backend: str | None = None, precisions: tuple[str, ...] = PRECISIONS
) -> None:
    """Raises ValueError unless `backend`, or any if None, computes `precision`, one of the op's `precisions`."""
    if precision not in precisions:
        raise ValueError(f"{op}: precision must be one of {', '.join(precisions)}, got {precision!r}")
    if backend is not None and backend not in _SERVED_BY.get(precision, (backend,)):
        raise ValueError(f"{op}: precision {precision!r} needs {_NEEDS[precision]}; use 'fp32' or 'bf16'")


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """In what sums are kept: float32, or float64 if an operand is."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def operand_dtype(first: Tensor, second: Tensor) -> torch.dtype:
    """By which a backend is chosen: the dtype of both, or what sums of two that differ are kept in."""
    return first.dtype if first.dtype == second.dtype else accumulate_dtype(first, second)


def as_operand(x: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    """x as an operand of a product that accumulates in `dtype`: rounded to bfloat16 first under "bf16"."""
    return x.to(torch.bfloat16).to(dtype) if precision == "bf16" else x.to(dtype)


def ieee_products(device: torch.device) -> AbstractContextManager[None]:
    """Inside the block, products of float32 matrices are float32."""
    return float32_products(device, "ieee")


@contextmanager
def float32_products(device: torch.device, wanted: str) -> Iterator[None]:
    """Inside the block, products of float32 matrices are as `wanted`, "ieee" or "tf32", whatever
    torch.set_float32_matmul_precision or autocast say: the argument `precision` is what decides here."""
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = backend.matmul
    allowed = matmul.fp32_precision
    with torch.autocast(device.type, enabled=False):
        if allowed == wanted or (wanted == "ieee" and allowed == "none"):
            yield
            return
        # Global state, so touched only where it would make a difference.
        matmul.fp32_precision = wanted
        try:
            yield
        finally:
            matmul.fp32_precision = allowed

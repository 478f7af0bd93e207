"""The precisions of losses and retrieval: how the operands of a product are rounded, and how it is computed.

The argument `precision` of a public call is one of

- "fp32": operands as they are, products and sums of IEEE float32 (float64 if an operand is);
- "bf16": operands rounded to bfloat16; their products are exact, sums are kept in float32;
- "tf32": products on the tensor cores of a GPU, which round float32 operands to 10 bits behind the point; sums are kept
  in float32. Not on a CPU;
- "bf16x3": every operand as the sum of two bfloat16 numbers, three products of these in place of one; gradients are
  within 1e-4 of their largest. For losses on a CPU; where that has no products of bfloat16, in float32.

Whatever it is, temperatures, softmax and losses are computed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

# Each with what it needs, where not every backend has it. Which backend serves which stands in `backends`.
PRECISIONS = {
    "fp32": None,
    "tf32": "a GPU and the backend 'triton'",
    "bf16": None,
    "bf16x3": "CPU tensors",
}


def accumulate_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype that sums are kept in: float32, or float64 if an operand is float64."""
    dtype = torch.float32
    for x in tensors:
        dtype = torch.promote_types(dtype, x.dtype)
    return dtype


def operand_dtype(first: Tensor, second: Tensor) -> torch.dtype:
    """The dtype that chooses the backend: the common one, else that of the sums."""
    return first.dtype if first.dtype == second.dtype else accumulate_dtype(first, second)


def rounded(x: Tensor, precision: str, dtype: torch.dtype) -> Tensor:
    """x in `dtype`, that of the sums of a product; its values rounded to bfloat16 first under "bf16"."""
    return x.to(torch.bfloat16).to(dtype) if precision == "bf16" else x.to(dtype)


def held(x: Tensor, precision: str) -> Tensor:
    """The float32 numbers x as a product under `precision` reads them, in float32. "tf32" is the tensor cores' own."""
    if precision == "bf16x3":
        large, rest = _two_parts(x)
        return large + rest
    return rounded(x, precision, x.dtype)


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


def ieee_products(device: torch.device) -> AbstractContextManager[None]:
    """Inside the block, products of float32 matrices are float32."""
    return float32_products(device, "ieee")


@contextmanager
def float32_products(device: torch.device, wanted: str) -> Iterator[None]:
    """Inside the block, products of float32 matrices are as `wanted`, "ieee" or "tf32", whatever
    torch.set_float32_matmul_precision or autocast say: the argument `precision` is what decides here.

    The setting is torch's and belongs to the process: where two threads want different products at the same time, one
    of them may get the other's.
    """
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    matmul = backend.matmul
    allowed = matmul.fp32_precision
    with torch.autocast(device.type, enabled=False):
        if allowed == wanted or (wanted == "ieee" and allowed == "none"):
            yield
            return
        # The setting belongs to the process, so it is touched only where it makes a difference.
        matmul.fp32_precision = wanted
        try:
            yield
        finally:
            matmul.fp32_precision = allowed

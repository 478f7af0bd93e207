"""Products of losses and retrieval by `precision`: what they read, and those that the library computes."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from rearec_kernels.precision import float32_products

# What a product may do with float32 operands; those of bfloat16 are exact.
PRODUCTS = {"fp32": "ieee", "tf32": "tf32", "bf16": "ieee"}


def rounded(x: Tensor, precision: str) -> Tensor:
    """Dense, in bfloat16 under "bf16" and in float32 otherwise."""
    return x.to(torch.bfloat16 if precision == "bf16" else torch.float32).contiguous()


def plain_products(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Inside the block, products by the library are what `precision` says."""
    return float32_products(device, PRODUCTS[precision])


def add_product(total: Tensor, a: Tensor, b: Tensor, is_first: bool) -> None:
    """total += a b, or = if it is the first one; in float32, by the library."""
    beta = 0.0 if is_first else 1.0
    if a.dtype == torch.float32 or not a.is_cuda:
        torch.addmm(total, a.float(), b.float(), beta=beta, out=total)
    else:
        torch.addmm(total, a, b, out_dtype=torch.float32, beta=beta, out=total)

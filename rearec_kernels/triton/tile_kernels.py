"""What the kernels of losses and retrieval share: tiles of matrices, their products, and exponentials."""

# Triton's language has no types to check.
# mypy: ignore-errors

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED: tl.constexpr = tl.constexpr(bool(triton.knobs.runtime.interpret))
LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)
NOWHERE: tl.constexpr = tl.constexpr(float("-inf"))


@triton.jit
def load_tile(base, stride, first, kept, columns, WIDTH: tl.constexpr):
    """The rows from `first` of a matrix [.., WIDTH] with dense rows; 0 in those not kept, and beyond its columns."""
    row = tl.arange(0, kept.shape[0])
    start = base + tl.cast(first, tl.int64) * stride  # 64 bits for the tile, 32 within it
    inside = kept[:, None] & (columns < WIDTH)[None, :]
    return tl.load(start + row[:, None] * stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def store_tile(base, stride, first, kept, columns, values, WIDTH: tl.constexpr):
    """Writes where `load_tile` reads."""
    row = tl.arange(0, kept.shape[0])
    start = base + tl.cast(first, tl.int64) * stride
    inside = kept[:, None] & (columns < WIDTH)[None, :]
    tl.store(start + row[:, None] * stride + columns[None, :], values.to(base.dtype.element_ty), mask=inside)


@triton.jit
def product(a, b, total, PRECISION: tl.constexpr):
    """total + a b, summed in float32."""
    if INTERPRETED:  # Triton's interpreter would multiply the bit patterns of bfloat16 numbers
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def accumulate(total, a, b, PRECISION: tl.constexpr):
    """total + a b, where total is the sum of many such products.

    Of float32 operands each product is summed apart: adding all of their terms to one sum, one after the other, would
    lose the digits that a library's matrix product of this length keeps.
    """
    if a.dtype == tl.float32 and PRECISION == "ieee":
        part = product(a, b, tl.zeros_like(total), PRECISION)
        return tl.fma(part, tl.full(total.shape, 1.0, tl.float32), total)  # a plain sum would be fused into the product
    else:
        return product(a, b, total, PRECISION)


@triton.jit
def hold(base, stride, first, kept, WIDTH: tl.constexpr, DEPTH: tl.constexpr):
    """A tile that many others are multiplied with: all of its columns if DEPTH is enough for them, else nothing."""
    if DEPTH >= WIDTH:
        return load_tile(base, stride, first, kept, tl.arange(0, DEPTH), WIDTH)
    else:
        return 0


@triton.jit
def held_product(
    held, base, stride, first, kept, other_base, other_stride, other_first, other_kept,
    WIDTH: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The tile that was to be held times the rows of another; and those rows, if all columns were at hand."""
    total = tl.zeros((kept.shape[0], other_kept.shape[0]), tl.float32)
    if DEPTH >= WIDTH:
        other = load_tile(other_base, other_stride, other_first, other_kept, tl.arange(0, DEPTH), WIDTH)
        return product(held, tl.trans(other), total, PRECISION), other
    else:
        for column in tl.range(0, WIDTH, DEPTH):
            columns = column + tl.arange(0, DEPTH)
            tile = load_tile(base, stride, first, kept, columns, WIDTH)
            other = load_tile(other_base, other_stride, other_first, other_kept, columns, WIDTH)
            total = product(tile, tl.trans(other), total, PRECISION)
        return total, 0


@triton.jit
def power(x, largest, scale):
    """exp((x - largest) scale), and 0 where x is -inf even if the largest is."""
    return tl.exp2((x - tl.where(largest == NOWHERE, 0.0, largest)) * (scale * LOG2_E))

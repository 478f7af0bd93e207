"""Tensors and sizes as the tuples that csrc/ reads: addresses, sizes and strides.

A tuple has the members of a struct of csrc/ in the order in which the struct declares them (csrc/bindings/tuples.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def shape_tuple(q: Tensor, prefix_k: Tensor, tokens: int, scale: float) -> tuple[Any, ...]:
    _, queries, heads, width = q.shape
    return DTYPES[q.dtype], queries, heads, prefix_k.shape[2], width, tokens, scale


def prefix_tuple(k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return k.data_ptr(), v.data_ptr(), k.stride()[:3], v.stride()[:3], k.shape[1]


def rows_tuple(start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor) -> tuple[int, ...]:
    return start.data_ptr(), end.data_ptr(), row_prefix.data_ptr(), order.data_ptr(), start.shape[0]


def segment_tuple(k: Tensor, v: Tensor, tokens: int) -> tuple[int, ...]:
    """The first `tokens` of k, v [R, tokens or more, Hkv, D], their heads dense."""
    strides = _stride(k, 0), _stride(k, 1)
    assert strides == (_stride(v, 0), _stride(v, 1))
    return k.data_ptr(), v.data_ptr(), *strides, tokens


def _stride(x: Tensor, dim: int) -> int:
    """Of a dimension of size 1 a dense tensor may have any stride, and nobody takes the step."""
    return x.stride(dim) if x.shape[dim] > 1 else 0


def segment_tuples(token_k: Sequence[Tensor], token_v: Sequence[Tensor]) -> list[tuple[int, ...]]:
    return [segment_tuple(k, v, k.shape[1]) for k, v in zip(token_k, token_v, strict=True)]


def step_tuples(
    dscores: Sequence[Tensor], probs: Sequence[Tensor], q: Sequence[Tensor], grad_out: Sequence[Tensor]
) -> list[tuple[int, ...]]:
    steps = zip(dscores, probs, q, grad_out, strict=True)
    return [(ds.data_ptr(), p.data_ptr(), x.data_ptr(), g.data_ptr(), x.shape[1]) for ds, p, x, g in steps]


def matrix_tuple(x: Tensor) -> tuple[int, bool, int]:
    """Rows of float32 or bfloat16 numbers that follow each other."""
    return x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0)


def split_tokens(x: Tensor, segments: Sequence[Tensor]) -> list[Tensor]:
    """Gradients [R, tokens, Hkv, D] as one dense tensor per segment: outputs of an op must not share memory."""
    sizes = [segment.shape[1] for segment in segments]
    if len(sizes) == 1:
        return [x]
    return [part.clone(memory_format=torch.contiguous_format) for part in x.split(sizes, dim=1)]

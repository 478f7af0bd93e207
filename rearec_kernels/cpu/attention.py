"""Native attention of reasoning tokens: addresses and strides for csrc/cpu/attention.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.cpu.memory import empty

_DTYPES = {torch.float32: 0, torch.bfloat16: 1}


def _prefix(k: Tensor, v: Tensor) -> tuple[Any, ...]:
    return k.data_ptr(), v.data_ptr(), k.stride()[:3], v.stride()[:3], k.shape[1]


def _rows(start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor) -> tuple[int, ...]:
    return start.data_ptr(), end.data_ptr(), row_prefix.data_ptr(), order.data_ptr(), start.shape[0]


def _segments(token_k: Sequence[Tensor], token_v: Sequence[Tensor]) -> list[tuple[int, ...]]:
    segments: list[tuple[int, ...]] = []
    for k, v in zip(token_k, token_v, strict=True):
        assert k.stride() == v.stride()
        segments.append((k.data_ptr(), v.data_ptr(), k.stride(0), k.stride(1), k.shape[1]))
    return segments


def _shape(q: Tensor, prefix_k: Tensor, tokens: int, scale: float) -> tuple[Any, ...]:
    _, queries, heads, width = q.shape
    return _DTYPES[q.dtype], queries, heads, prefix_k.shape[2], width, tokens, scale, torch.get_num_threads()


def _seed(seed: Tensor | None) -> int:
    return 0 if seed is None else int(seed) & 0xFFFFFFFFFFFFFFFF


def attention(
    q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor, prefix_v: Tensor,
    carriers: Sequence[Tensor], start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    scale: float, dropout_p: float, seed: Tensor | None, keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    rows, queries, heads, _ = q.shape
    tokens = sum(k.shape[1] for k in token_k)
    out = torch.empty_like(q)
    # Empty tensors have no address, which the kernel takes as "do not keep".
    kept_rows, kept_slots, kept_tokens = (rows, prefix_k.shape[1], tokens) if keep else (0, 0, 0)
    prefix_probs = torch.empty((kept_rows, heads, queries, kept_slots), dtype=torch.float32)
    token_probs = torch.empty((kept_rows, heads, queries, kept_tokens), dtype=torch.float32)
    _C.attention_forward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        _segments(token_k, token_v),
        dropout_p, _seed(seed), q.data_ptr(), 0, 0, out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
    )  # fmt: skip
    return out, prefix_probs, token_probs


def attention_decode(
    q: Tensor, k: Tensor, v: Tensor, prefix_k: Tensor, prefix_v: Tensor, token_k: Tensor, token_v: Tensor,
    start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor,
    length: int, scale: float, dropout_p: float, seed: Tensor | None,
) -> Tensor:  # fmt: skip
    tokens = length + q.shape[1]
    out = torch.empty_like(q)
    _C.attention_forward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        [(token_k.data_ptr(), token_v.data_ptr(), token_k.stride(0), token_k.stride(1), tokens)],
        dropout_p, _seed(seed), q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), 0, 0,
    )  # fmt: skip
    return out


def attention_backward(
    grad_out: Tensor, q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor,
    prefix_v: Tensor, prefix_probs: Tensor, token_probs: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor,
    order: Tensor, scale: float, dropout_p: float,
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:  # fmt: skip
    tokens = token_probs.shape[3]
    grad_q = torch.empty_like(q)
    dscores = torch.empty_like(prefix_probs)
    grad_k = torch.empty((q.shape[0], tokens, *prefix_k.shape[2:]), dtype=q.dtype)
    grad_v = torch.empty_like(grad_k)
    _C.attention_backward(
        _shape(q, prefix_k, tokens, scale),
        _prefix(prefix_k, prefix_v),
        _rows(start, end, row_prefix, order),
        _segments(token_k, token_v),
        dropout_p, q.data_ptr(), grad_out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
        grad_q.data_ptr(), dscores.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr(),
    )  # fmt: skip
    steps = [k.shape[1] for k in token_k]
    if len(steps) == 1:
        return grad_q, [grad_k], [grad_v], dscores
    # Outputs of an op must not share memory, so each step's part is its own tensor.
    return grad_q, _split(grad_k, steps), _split(grad_v, steps), dscores


def _split(x: Tensor, sizes: list[int]) -> list[Tensor]:
    return [part.clone(memory_format=torch.contiguous_format) for part in x.split(sizes, dim=1)]


def attention_prefix_gradient(
    dscores: Sequence[Tensor], probs: Sequence[Tensor], q: Sequence[Tensor], grad_out: Sequence[Tensor],
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_k, grad_v = empty(prefix_k.shape, prefix_k.dtype), empty(prefix_v.shape, prefix_v.dtype)
    steps = [
        (ds.data_ptr(), p.data_ptr(), x.data_ptr(), g.data_ptr(), x.shape[1])
        for ds, p, x, g in zip(dscores, probs, q, grad_out, strict=True)
    ]
    prefixes, slots, kv_heads, width = prefix_k.shape
    _C.attention_prefix_gradient(
        _DTYPES[prefix_k.dtype], steps, _rows(start, end, row_prefix, order), offsets.data_ptr(),
        prefixes, slots, q[0].shape[2], kv_heads, width, grad_k.data_ptr(), grad_v.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return grad_k, grad_v

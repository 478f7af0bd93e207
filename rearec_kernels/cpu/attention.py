"""Native attention of reasoning tokens: addresses and strides for csrc/cpu/attention.cpp."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.addresses import (
    DTYPES,
    prefix_operand,
    rows_operand,
    segment_operand,
    segment_operands,
    shape_operand,
    split_tokens,
    step_operands,
)
from rearec_kernels.cpu.memory import empty


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
    prefix_probs = torch.empty((kept_rows, heads, queries, kept_slots), dtype=torch.float32, device="cpu")
    token_probs = torch.empty((kept_rows, heads, queries, kept_tokens), dtype=torch.float32, device="cpu")
    _C.attention_forward(
        shape_operand(q, prefix_k, tokens, scale),
        prefix_operand(prefix_k, prefix_v),
        rows_operand(start, end, row_prefix, order),
        segment_operands(token_k, token_v),
        dropout_p, _seed(seed), q.data_ptr(), 0, 0, out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
        torch.get_num_threads(),
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
        shape_operand(q, prefix_k, tokens, scale),
        prefix_operand(prefix_k, prefix_v),
        rows_operand(start, end, row_prefix, order),
        [segment_operand(token_k, token_v, tokens)],
        dropout_p, _seed(seed), q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), 0, 0,
        torch.get_num_threads(),
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
    grad_k = torch.empty((q.shape[0], tokens, *prefix_k.shape[2:]), dtype=q.dtype, device="cpu")
    grad_v = torch.empty_like(grad_k)
    _C.attention_backward(
        shape_operand(q, prefix_k, tokens, scale),
        prefix_operand(prefix_k, prefix_v),
        rows_operand(start, end, row_prefix, order),
        segment_operands(token_k, token_v),
        dropout_p, q.data_ptr(), grad_out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
        grad_q.data_ptr(), dscores.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return grad_q, split_tokens(grad_k, token_k), split_tokens(grad_v, token_v), dscores


def attention_prefix_gradient(
    dscores: Sequence[Tensor], probs: Sequence[Tensor], q: Sequence[Tensor], grad_out: Sequence[Tensor],
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_k, grad_v = empty(prefix_k.shape, prefix_k.dtype), empty(prefix_v.shape, prefix_v.dtype)
    prefixes, slots, kv_heads, width = prefix_k.shape
    _C.attention_prefix_gradient(
        DTYPES[prefix_k.dtype], step_operands(dscores, probs, q, grad_out),
        rows_operand(start, end, row_prefix, order), offsets.data_ptr(),
        prefixes, slots, q[0].shape[2], kv_heads, width, grad_k.data_ptr(), grad_v.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return grad_k, grad_v

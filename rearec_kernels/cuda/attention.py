"""Attention of reasoning tokens on CUDA devices: addresses and strides for csrc/cuda/attention_*.cu."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import (
    DTYPES,
    prefix_tuple,
    rows_tuple,
    segment_tuple,
    segment_tuples,
    shape_tuple,
    split_tokens,
    step_tuples,
)
from rearec_kernels.cuda import stream
from rearec_kernels.dropout import ALL_ROWS
from rearec_kernels.ops.arguments import Attention, AttentionBackward, AttentionDecode, MaskRows, PrefixGradient, Rows

_NO_APPENDED_TOKENS = (0, 0, 0, 0, 0, 0)


def attention(args: Attention, rows: Rows, mask_rows: MaskRows) -> tuple[Tensor, Tensor, Tensor]:
    q, prefix_k = args.q, args.prefix_k
    count, queries, heads, _ = q.shape
    token_k, token_v = _few_segments(args.token_k, args.token_v)
    tokens = sum(k.shape[1] for k in token_k)
    out = torch.empty_like(q)
    # Empty tensors have no address, which the kernel takes as "do not keep".
    kept_rows, kept_slots, kept_tokens = (count, prefix_k.shape[1], tokens) if args.keep else (0, 0, 0)
    prefix_probs = q.new_empty((kept_rows, heads, queries, kept_slots), dtype=torch.float32)
    token_probs = q.new_empty((kept_rows, heads, queries, kept_tokens), dtype=torch.float32)
    stream.launch(
        native.CUDA.attention_forward, q.device,
        shape_tuple(q, prefix_k, tokens, args.scale),
        prefix_tuple(prefix_k, args.prefix_v),
        rows_tuple(*rows), prefix_k.shape[0],
        segment_tuples(token_k, token_v), _NO_APPENDED_TOKENS,
        (args.dropout_p, 0 if args.seed is None else args.seed.data_ptr(), mask_rows),
        q.data_ptr(), out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(),
    )  # fmt: skip
    return out, prefix_probs, token_probs


def attention_decode(args: AttentionDecode, rows: Rows, mask_rows: MaskRows) -> Tensor:
    q, k, v, prefix_k, prefix_v, token_k, token_v, length, scale, dropout_p, seed = args
    queries = q.shape[1]
    out = torch.empty_like(q)
    # What is appended is read where it comes from: no thread reads what another one writes.
    segments = [segment_tuple(token_k, token_v, length)] if length > 0 else []
    append = (
        k.data_ptr(), v.data_ptr(), token_k.data_ptr(), token_v.data_ptr(), token_k.stride(0), token_k.stride(1),
    )  # fmt: skip
    stream.launch(
        native.CUDA.attention_forward, q.device,
        shape_tuple(q, prefix_k, length + queries, scale),
        prefix_tuple(prefix_k, prefix_v),
        rows_tuple(*rows), prefix_k.shape[0],
        [*segments, segment_tuple(k, v, queries)], append,
        (dropout_p, 0 if seed is None else seed.data_ptr(), mask_rows),
        q.data_ptr(), out.data_ptr(), 0, 0,
    )  # fmt: skip
    return out


def attention_backward(args: AttentionBackward, rows: Rows) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    q, prefix_k, prefix_probs, token_probs = args.q, args.prefix_k, args.prefix_probs, args.token_probs
    few_k, few_v = _few_segments(args.token_k, args.token_v)
    grad_q = torch.empty_like(q)
    prefix_dscores, token_dscores = torch.empty_like(prefix_probs), torch.empty_like(token_probs)
    grad_k, grad_v = (
        [torch.empty_like(x, memory_format=torch.contiguous_format) for x in few] for few in (few_k, few_v)
    )
    stream.launch(
        native.CUDA.attention_backward, q.device,
        shape_tuple(q, prefix_k, token_probs.shape[3], args.scale),
        prefix_tuple(prefix_k, args.prefix_v),
        rows_tuple(*rows), prefix_k.shape[0],
        segment_tuples(few_k, few_v), segment_tuples(grad_k, grad_v),
        (args.dropout_p, 0, ALL_ROWS), q.data_ptr(), args.grad_out.data_ptr(),
        prefix_probs.data_ptr(), token_probs.data_ptr(),
        grad_q.data_ptr(), prefix_dscores.data_ptr(), token_dscores.data_ptr(),
    )  # fmt: skip
    if len(few_k) < len(args.token_k):
        grad_k, grad_v = split_tokens(grad_k[0], args.token_k), split_tokens(grad_v[0], args.token_v)
    return grad_q, grad_k, grad_v, prefix_dscores


def attention_prefix_gradient(args: PrefixGradient, rows: Rows) -> tuple[Tensor, Tensor]:
    prefix_k, prefix_v = args.prefix_k, args.prefix_v
    grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (prefix_k, prefix_v))
    prefixes, slots, kv_heads, width = prefix_k.shape
    dscores, probs, q, grad_out = args.dscores, args.probs, args.q, args.grad_out
    if len(q) > native.CUDA.MAX_STEPS:  # many steps of Q tokens are one step of many times Q
        dscores, probs = ([torch.cat(list(x), dim=2)] for x in (dscores, probs))
        q, grad_out = ([torch.cat(list(x), dim=1)] for x in (q, grad_out))
    stream.launch(
        native.CUDA.attention_prefix_gradient, prefix_k.device,
        DTYPES[prefix_k.dtype], step_tuples(dscores, probs, q, grad_out),
        rows_tuple(*rows), args.offsets.data_ptr(),
        prefixes, slots, q[0].shape[2], kv_heads, width, grad_k.data_ptr(), grad_v.data_ptr(),
    )  # fmt: skip
    return grad_k, grad_v


def _few_segments(token_k: Sequence[Tensor], token_v: Sequence[Tensor]) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """The tokens in as many tensors as a launch takes."""
    if len(token_k) <= native.CUDA.MAX_SEGMENTS:
        return token_k, token_v
    return [torch.cat(list(token_k), dim=1)], [torch.cat(list(token_v), dim=1)]

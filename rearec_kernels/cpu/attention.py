"""Native attention of reasoning tokens: addresses and strides for csrc/cpu/attention.cpp."""

from __future__ import annotations

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
from rearec_kernels.cpu.memory import empty
from rearec_kernels.dropout import seed_bits
from rearec_kernels.ops.arguments import Attention, AttentionBackward, AttentionDecode, MaskRows, PrefixGradient, Rows


def attention(args: Attention, rows: Rows, mask_rows: MaskRows) -> tuple[Tensor, Tensor, Tensor]:
    q = args.q
    count, queries, heads, _ = q.shape
    tokens = sum(k.shape[1] for k in args.token_k)
    out = torch.empty_like(q)
    # Empty tensors have no address, which the kernel takes as "do not keep".
    kept_rows, kept_slots, kept_tokens = (count, args.prefix_k.shape[1], tokens) if args.keep else (0, 0, 0)
    prefix_probs = torch.empty((kept_rows, heads, queries, kept_slots), dtype=torch.float32, device="cpu")
    token_probs = torch.empty((kept_rows, heads, queries, kept_tokens), dtype=torch.float32, device="cpu")
    native.C.attention_forward(
        shape_tuple(q, args.prefix_k, tokens, args.scale),
        prefix_tuple(args.prefix_k, args.prefix_v),
        rows_tuple(*rows),
        segment_tuples(args.token_k, args.token_v),
        args.dropout_p, seed_bits(args.seed), mask_rows, q.data_ptr(), 0, 0,
        out.data_ptr(), prefix_probs.data_ptr(), token_probs.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, prefix_probs, token_probs


def attention_decode(args: AttentionDecode, rows: Rows, mask_rows: MaskRows) -> Tensor:
    q, k, v, prefix_k, prefix_v, token_k, token_v, length, scale, dropout_p, seed = args
    tokens = length + q.shape[1]
    out = torch.empty_like(q)
    native.C.attention_forward(
        shape_tuple(q, prefix_k, tokens, scale),
        prefix_tuple(prefix_k, prefix_v),
        rows_tuple(*rows),
        [segment_tuple(token_k, token_v, tokens)],
        dropout_p, seed_bits(seed), mask_rows, q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), 0, 0,
        torch.get_num_threads(),
    )  # fmt: skip
    return out


def attention_backward(args: AttentionBackward, rows: Rows) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    q, tokens = args.q, args.token_probs.shape[3]
    grad_q = torch.empty_like(q)
    dscores = torch.empty_like(args.prefix_probs)
    grad_k = torch.empty((q.shape[0], tokens, *args.prefix_k.shape[2:]), dtype=q.dtype, device="cpu")
    grad_v = torch.empty_like(grad_k)
    native.C.attention_backward(
        shape_tuple(q, args.prefix_k, tokens, args.scale),
        prefix_tuple(args.prefix_k, args.prefix_v),
        rows_tuple(*rows),
        segment_tuples(args.token_k, args.token_v),
        args.dropout_p, q.data_ptr(), args.grad_out.data_ptr(), args.prefix_probs.data_ptr(),
        args.token_probs.data_ptr(), grad_q.data_ptr(), dscores.data_ptr(), grad_k.data_ptr(), grad_v.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip
    return grad_q, split_tokens(grad_k, args.token_k), split_tokens(grad_v, args.token_v), dscores


def attention_prefix_gradient(args: PrefixGradient, rows: Rows) -> tuple[Tensor, Tensor]:
    prefixes, slots, kv_heads, width = args.prefix_k.shape
    grad_k, grad_v = (empty(x.shape, x.dtype) for x in (args.prefix_k, args.prefix_v))
    native.C.attention_prefix_gradient(
        DTYPES[args.prefix_k.dtype], step_tuples(args.dscores, args.probs, args.q, args.grad_out),
        rows_tuple(*rows), args.offsets.data_ptr(), prefixes, slots, args.q[0].shape[2], kv_heads, width,
        grad_k.data_ptr(), grad_v.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return grad_k, grad_v

"""Attention of reasoning tokens in Triton, where the CUDA kernels were not built: launches of attention_kernels.py."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rearec_kernels.addresses import segment_tuple, split_tokens
from rearec_kernels.dropout import dropout_threshold
from rearec_kernels.ops.arguments import Attention, AttentionBackward, AttentionDecode, MaskRows, PrefixGradient, Rows
from rearec_kernels.ops.attention import appended
from rearec_kernels.triton import attention_kernels as kernels
from rearec_kernels.triton.launch import Config, block_size, blocks, config, launch

_TILE = 2048  # elements of K and of V that a program holds at a time
_MOST_KEYS = 128
_ELEMENTS_OF_WARP = 256  # 8 for each thread: with 16, some kernels spill registers


def attention(args: Attention, rows: Rows, mask_rows: MaskRows) -> tuple[Tensor, Tensor, Tensor]:
    q, prefix_k, prefix_v, dropout_p = args.q, args.prefix_k, args.prefix_v, args.dropout_p
    count, queries, heads, width = q.shape
    slots, kv_heads = prefix_k.shape[1:3]
    k, v = _concatenated(args.token_k, dim=1), _concatenated(args.token_v, dim=1)
    tokens = k.shape[1]
    out = torch.empty_like(q)
    kept_rows, kept_slots, kept_tokens = (count, slots, tokens) if args.keep else (0, 0, 0)
    prefix_probs = q.new_empty((kept_rows, heads, queries, kept_slots), dtype=torch.float32)
    token_probs = q.new_empty((kept_rows, heads, queries, kept_tokens), dtype=torch.float32)
    launch(
        kernels.attention_forward, (count * heads * queries,), _tiles(slots + tokens, width),
        q, out, prefix_probs, token_probs, prefix_k, prefix_v, k, v, *rows, args.seed, *mask_rows,
        queries, heads, kv_heads, slots, tokens, *_strides(prefix_k, prefix_v, k, v),
        args.scale, dropout_threshold(dropout_p), 1 / (1 - dropout_p),
        WIDTH=width, DROPOUT=dropout_p > 0, KEEP=args.keep,
    )  # fmt: skip
    return out, prefix_probs, token_probs


def attention_decode(args: AttentionDecode, rows: Rows, mask_rows: MaskRows) -> Tensor:
    out, _, _ = attention(appended(args), rows, mask_rows)
    return out


def attention_backward(args: AttentionBackward, rows: Rows) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    q, prefix_k, prefix_v, prefix_probs, token_probs = (
        args.q, args.prefix_k, args.prefix_v, args.prefix_probs, args.token_probs,
    )  # fmt: skip
    count, queries, heads, width = q.shape
    slots, kv_heads = prefix_k.shape[1:3]
    k, v = _concatenated(args.token_k, dim=1), _concatenated(args.token_v, dim=1)
    tokens = k.shape[1]
    grad_q = torch.empty_like(q)
    prefix_dscores, token_dscores = torch.empty_like(prefix_probs), torch.empty_like(token_probs)
    grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (k, v))
    keep = 1 / (1 - args.dropout_p)
    launch(
        kernels.attention_score_gradient, (count * heads * queries,), _tiles(slots + tokens, width),
        args.grad_out, prefix_probs, token_probs, prefix_k, prefix_v, k, v, *rows,
        grad_q, prefix_dscores, token_dscores,
        queries, heads, kv_heads, slots, tokens, *_strides(prefix_k, prefix_v, k, v), args.scale, keep, WIDTH=width,
    )  # fmt: skip
    tiles = _tiles(tokens, width)
    launch(
        kernels.attention_token_gradient, (count * kv_heads, blocks(tokens, tiles["KEYS"])), tiles,
        token_dscores, token_probs, q, args.grad_out, grad_k, grad_v, queries, heads, kv_heads, tokens, keep,
        WIDTH=width,
    )  # fmt: skip
    return grad_q, split_tokens(grad_k, args.token_k), split_tokens(grad_v, args.token_v), prefix_dscores


def attention_prefix_gradient(args: PrefixGradient, rows: Rows) -> tuple[Tensor, Tensor]:
    prefix_k, prefix_v = args.prefix_k, args.prefix_v
    grad_k, grad_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (prefix_k, prefix_v))
    prefixes, slots, kv_heads, width = prefix_k.shape
    # Many steps of Q tokens are one step of many times Q.
    scores = (_concatenated(x, dim=2) for x in (args.dscores, args.probs))
    vectors = [_concatenated(x, dim=1) for x in (args.q, args.grad_out)]
    queries, heads = vectors[0].shape[1:3]
    tiles = _tiles(slots, width)
    launch(
        kernels.attention_prefix_gradient, (prefixes * kv_heads, blocks(slots, tiles["KEYS"])), tiles,
        *scores, *vectors, rows.start, rows.end, rows.order, args.offsets, grad_k, grad_v,
        queries, heads, kv_heads, slots, WIDTH=width,
    )  # fmt: skip
    return grad_k, grad_v


def _concatenated(parts: Sequence[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _strides(prefix_k: Tensor, prefix_v: Tensor, token_k: Tensor, token_v: Tensor) -> tuple[int, ...]:
    """Of the prefix's K, its V, and the tokens, whose heads are dense."""
    row_stride, token_stride = segment_tuple(token_k, token_v, token_k.shape[1])[2:4]
    return (*prefix_k.stride()[:3], *prefix_v.stride()[:3], row_stride, token_stride)


def _tiles(keys: int, width: int) -> Config:
    """Whole heads of as many keys as a program can hold."""
    columns = block_size(width, 16, 1024)
    count = block_size(keys, 4, min(_TILE // columns, _MOST_KEYS))
    return config(block_size(count * columns // _ELEMENTS_OF_WARP, 1, 8), 2, KEYS=count, COLUMNS=columns)

"""Ops of the reasoning tokens' attention, and how the gradient of the prefix travels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import (
    Attention,
    AttentionBackward,
    AttentionDecode,
    MaskRows,
    OpenPrefix,
    PrefixGradient,
    Rows,
)
from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once

# Gradients of the prefix. dK = sum_k ds_k q_k and dV = sum_k p_k do_k over all steps k are written once, by the node
# that opened the cache. Each step carries its (ds, p, q, do) there as the *gradients* of four tensors that the opening
# node made for it and that hold no data (expanded from one element): autograd then runs the opening node last, and
# there is no state to go stale under retain_graph, a repeated backward pass or an unused step.

_PUBLIC = "cached_reason_attention"


def _dense_like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


define(
    "attention_decode",
    (AttentionDecode, Rows, MaskRows),
    "Tensor",
    lambda args, *_: _dense_like(args.q),
    family="attention",
    not_differentiated=_PUBLIC,
)


def appended(args: AttentionDecode) -> Attention:
    """Writes k, v behind the first `length` tokens of token_k, token_v: the attention over these, without gradients.

    For backends whose kernel does not append by itself.
    """
    stop = args.length + args.q.shape[1]
    args.token_k[:, args.length : stop] = args.k
    args.token_v[:, args.length : stop] = args.v
    return Attention(
        args.q, [args.token_k[:, :stop]], [args.token_v[:, :stop]], args.prefix_k, args.prefix_v, carriers=(),
        scale=args.scale, dropout_p=args.dropout_p, seed=args.seed, keep=False,
    )  # fmt: skip


def _attention_fake(args: Attention, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    rows, queries, heads, _width = args.q.shape
    slots, tokens = args.prefix_k.shape[1], sum(k.shape[1] for k in args.token_k)
    if not args.keep:
        rows = slots = tokens = 0
    accumulate = torch.promote_types(args.q.dtype, torch.float32)
    return (
        _dense_like(args.q),
        args.q.new_empty((rows, heads, queries, slots), dtype=accumulate),
        args.q.new_empty((rows, heads, queries, tokens), dtype=accumulate),
    )


define("attention", (Attention, Rows, MaskRows), "(Tensor, Tensor, Tensor)", _attention_fake, family="attention")


def _attention_backward_fake(args: AttentionBackward, _: Rows) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    return (
        _dense_like(args.q),
        [_dense_like(k) for k in args.token_k],
        [_dense_like(v) for v in args.token_v],
        torch.empty_like(args.prefix_probs),
    )


define(
    "attention_backward",
    (AttentionBackward, Rows),
    "(Tensor, Tensor[], Tensor[], Tensor)",
    _attention_backward_fake,
    family="attention",
)
differentiable_once("attention_backward", _PUBLIC)


def _attention_setup(
    ctx: Any, output: tuple[Tensor, Tensor, Tensor], args: Attention, rows: Rows, _masks: MaskRows
) -> None:
    q, token_k, token_v, prefix_k, prefix_v, carriers, *_ = args
    _, prefix_probs, token_probs = output
    ctx.save_for_backward(q, *token_k, *token_v, prefix_k, prefix_v, prefix_probs, token_probs, *rows)
    ctx.steps, ctx.carried = len(token_k), len(carriers) > 0
    ctx.scale, ctx.dropout_p = args.scale, args.dropout_p
    ctx.mark_non_differentiable(prefix_probs, token_probs)


def _attention_gradient(ctx: Any, grad_out: Tensor, *_: Any) -> list[Tensor]:
    q, *saved = ctx.saved_tensors
    token_k, token_v, rest = saved[: ctx.steps], saved[ctx.steps : 2 * ctx.steps], saved[2 * ctx.steps :]
    prefix_k, prefix_v, prefix_probs, token_probs, *rows = rest
    grad_out = grad_out.contiguous()
    args = AttentionBackward(
        grad_out, q, token_k, token_v, prefix_k, prefix_v, prefix_probs, token_probs, ctx.scale, ctx.dropout_p
    )
    grad_q, grad_k, grad_v, dscores = call_backward_op("attention_backward", ctx.backend, args, rows)
    gradients = [grad_q, *grad_k, *grad_v]
    if ctx.carried:
        kept = 1 - ctx.dropout_p
        gradients += [dscores, prefix_probs, q, grad_out / kept if ctx.dropout_p > 0 else grad_out]
    return gradients


# Not the prefix: its gradient is what the carriers are for.
autograd("attention", _PUBLIC, ("q", "token_k", "token_v", "carriers"), _attention_setup, _attention_gradient)


def _open_prefix(args: OpenPrefix, index: Rows) -> list[Tensor]:
    rows, (_, slots, _, width) = index.start.shape[0], args.prefix_k.shape

    def without_data(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
        elements = [args.prefix_k.new_empty((), dtype=dtype) for _ in range(2 * args.steps)]
        torch._foreach_zero_(elements)  # one kernel, not one each
        return [x.expand(shape) for x in elements]

    dtype = args.prefix_k.dtype
    scores = without_data((rows, args.heads, args.queries, slots), torch.promote_types(dtype, torch.float32))
    vectors = without_data((rows, args.queries, args.heads, width), dtype)
    return [x for i in range(0, 2 * args.steps, 2) for x in (*scores[i : i + 2], *vectors[i : i + 2])]


define("attention_open_prefix", (OpenPrefix, Rows), "Tensor[]", _open_prefix, run=_open_prefix)

define(
    "attention_prefix_gradient",
    (PrefixGradient, Rows),
    "(Tensor, Tensor)",
    lambda args, rows: (_dense_like(args.prefix_k), _dense_like(args.prefix_v)),
    family="attention",
)
differentiable_once("attention_prefix_gradient", _PUBLIC)


def _open_prefix_setup(ctx: Any, output: list[Tensor], args: OpenPrefix, rows: Rows) -> None:
    # Plain attributes: reopening a prefix while activation checkpointing recomputes must not add a saved tensor. They
    # are detached and only their shape and dtype is read, or index tensors that never need a gradient.
    ctx.prefix_k, ctx.prefix_v = args.prefix_k.detach(), args.prefix_v.detach()
    ctx.offsets, ctx.rows = args.offsets, rows


def _open_prefix_gradient(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
    used = [grads[i : i + 4] for i in range(0, len(grads), 4) if grads[i] is not None]
    dscores, probs, q, grad_out = ([t.contiguous() for t in kind] for kind in zip(*used, strict=True))
    args = PrefixGradient(dscores, probs, q, grad_out, ctx.prefix_k, ctx.prefix_v, ctx.offsets)
    return call_backward_op("attention_prefix_gradient", ctx.backend, args, ctx.rows)


autograd("attention_open_prefix", _PUBLIC, ("prefix_k", "prefix_v"), _open_prefix_setup, _open_prefix_gradient)

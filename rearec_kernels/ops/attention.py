"""Ops of the reasoning tokens' attention, and how the gradient of the prefix travels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once

# Gradients of the prefix. dK = sum_k ds_k q_k and dV = sum_k p_k do_k over all steps k are written once, by the node
# that opened the cache. Each step carries its (ds, p, q, do) there as the *gradients* of four tensors that the opening
# node made for it and that hold no data (expanded from one element): autograd then runs the opening node last, and
# there is no state to go stale under retain_graph, a repeated backward pass or an unused step.

_ROWS = "Tensor start, Tensor end, Tensor row_prefix, Tensor order"

define(
    "attention_decode",
    "(Tensor q, Tensor k, Tensor v, Tensor prefix_k, Tensor prefix_v, Tensor(a!) token_k, Tensor(b!) token_v, "
    f"{_ROWS}, int length, float scale, float dropout_p, Tensor? seed, str backend) -> Tensor",
    lambda q, *_: torch.empty_like(q, memory_format=torch.contiguous_format),
    not_differentiated="cached_reason_attention",
)


def _attention_fake(
    q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    rows, queries, heads, _ = q.shape
    slots, tokens = prefix_k.shape[1], sum(k.shape[1] for k in token_k)
    if not rest[-2]:
        rows = slots = tokens = 0
    accumulate = torch.promote_types(q.dtype, torch.float32)
    return (
        torch.empty_like(q, memory_format=torch.contiguous_format),
        q.new_empty((rows, heads, queries, slots), dtype=accumulate),
        q.new_empty((rows, heads, queries, tokens), dtype=accumulate),
    )


define(
    "attention",
    "(Tensor q, Tensor[] token_k, Tensor[] token_v, Tensor prefix_k, Tensor prefix_v, Tensor[] carriers, "
    f"{_ROWS}, float scale, float dropout_p, Tensor? seed, bool keep, str backend) -> (Tensor, Tensor, Tensor)",
    _attention_fake,
)


def _attention_backward_fake(
    grad_out: Tensor, q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], *rest: Any
) -> tuple[Tensor, list[Tensor], list[Tensor], Tensor]:
    prefix_probs = rest[2]
    return (
        torch.empty_like(q, memory_format=torch.contiguous_format),
        [torch.empty_like(k, memory_format=torch.contiguous_format) for k in token_k],
        [torch.empty_like(v, memory_format=torch.contiguous_format) for v in token_v],
        torch.empty_like(prefix_probs),
    )


define(
    "attention_backward",
    "(Tensor grad_out, Tensor q, Tensor[] token_k, Tensor[] token_v, Tensor prefix_k, Tensor prefix_v, "
    f"Tensor prefix_probs, Tensor token_probs, {_ROWS}, float scale, float dropout_p, str backend) "
    "-> (Tensor, Tensor[], Tensor[], Tensor)",
    _attention_backward_fake,
)
differentiable_once("attention_backward", "cached_reason_attention")


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, token_k, token_v, prefix_k, prefix_v, carriers, *rows, scale, dropout_p, _, _, backend = inputs
    ctx.save_for_backward(q, *token_k, *token_v, prefix_k, prefix_v, *output[1:], *rows)
    ctx.steps, ctx.carried, ctx.options = len(token_k), len(carriers) > 0, (scale, dropout_p, backend)
    ctx.mark_non_differentiable(*output[1:])


def _attention_gradient(ctx: Any, grad_out: Tensor, *_: Any) -> list[Tensor]:
    n = ctx.steps
    q, *saved = ctx.saved_tensors
    token_k, token_v, (prefix_k, prefix_v, prefix_probs, token_probs, *rows) = (
        saved[:n],
        saved[n : 2 * n],
        saved[2 * n :],
    )
    scale, dropout_p, backend = ctx.options
    grad_out = grad_out.contiguous()
    grad_q, grad_k, grad_v, dscores = call_backward_op(
        torch.ops.rearec.attention_backward, grad_out, q, token_k, token_v, prefix_k, prefix_v, prefix_probs,
        token_probs, *rows, scale, dropout_p, backend,
    )  # fmt: skip
    gradients = [grad_q, *grad_k, *grad_v]
    if ctx.carried:
        gradients += [dscores, prefix_probs, q, grad_out / (1 - dropout_p) if dropout_p > 0 else grad_out]
    return gradients


autograd(
    "attention",
    "cached_reason_attention",
    _attention_setup,
    _attention_gradient,
    # Not the prefix: its gradient is what the carriers are for.
    lambda q, token_k, token_v, prefix_k, prefix_v, carriers, *_: (q, *token_k, *token_v, *carriers),
)


def _open_prefix(
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
    steps: int, queries: int, heads: int, backend: str,
) -> list[Tensor]:  # fmt: skip
    rows, (_, slots, _, width) = start.shape[0], prefix_k.shape

    def without_data(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
        elements = [prefix_k.new_empty((), dtype=dtype) for _ in range(2 * steps)]
        torch._foreach_zero_(elements)  # one kernel, not one each
        return [x.expand(shape) for x in elements]

    scores = without_data((rows, heads, queries, slots), torch.promote_types(prefix_k.dtype, torch.float32))
    vectors = without_data((rows, queries, heads, width), prefix_k.dtype)
    return [x for i in range(0, 2 * steps, 2) for x in (*scores[i : i + 2], *vectors[i : i + 2])]


define(
    "attention_open_prefix",
    f"(Tensor prefix_k, Tensor prefix_v, {_ROWS}, Tensor offsets, int steps, int queries, int heads, str backend) "
    "-> Tensor[]",
    _open_prefix,
    run=_open_prefix,
)

define(
    "attention_prefix_gradient",
    "(Tensor[] dscores, Tensor[] probs, Tensor[] q, Tensor[] grad_out, Tensor prefix_k, Tensor prefix_v, "
    f"{_ROWS}, Tensor offsets, str backend) -> (Tensor, Tensor)",
    lambda dscores, probs, q, grad_out, prefix_k, prefix_v, *_: (
        torch.empty_like(prefix_k, memory_format=torch.contiguous_format),
        torch.empty_like(prefix_v, memory_format=torch.contiguous_format),
    ),
)
differentiable_once("attention_prefix_gradient", "cached_reason_attention")


def _open_prefix_setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    prefix_k, prefix_v, *rows, _, _, _, backend = inputs
    # Plain attributes: reopening a prefix while activation checkpointing recomputes must not add a saved tensor. They
    # are detached and only their shape and dtype is read, or index tensors that never need a gradient.
    ctx.prefix, ctx.rows, ctx.backend = (prefix_k.detach(), prefix_v.detach()), rows, backend


def _open_prefix_gradient(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor]:
    used = [grads[i : i + 4] for i in range(0, len(grads), 4) if grads[i] is not None]
    dscores, probs, q, grad_out = ([t.contiguous() for t in kind] for kind in zip(*used, strict=True))
    return call_backward_op(
        torch.ops.rearec.attention_prefix_gradient, dscores, probs, q, grad_out, *ctx.prefix, *ctx.rows, ctx.backend
    )


autograd("attention_open_prefix", "cached_reason_attention", _open_prefix_setup, _open_prefix_gradient)

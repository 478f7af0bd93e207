"""Op of LayerNorm with dropout and residual, rows of float32 or bfloat16, parameters of float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import LayerNorm, LayerNormGradient, MaskRows
from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once

_NAME = "dropout_add_layer_norm"


def _fake(args: LayerNorm, _: MaskRows) -> tuple[Tensor, Tensor]:
    statistics = args.x.new_empty((args.x.shape[0], 2)).float()
    return torch.empty_like(args.x, dtype=args.weight.dtype), statistics


def _backward_fake(_: LayerNormGradient, args: LayerNorm, _rows: MaskRows) -> tuple[Tensor, ...]:
    grad_residual = args.weight.new_empty(0) if args.residual is None else torch.empty_like(args.residual)
    return torch.empty_like(args.x), grad_residual, torch.empty_like(args.weight), torch.empty_like(args.bias)


define(_NAME, (LayerNorm, MaskRows), "(Tensor, Tensor)", _fake, family="layer_norm")
define(
    f"{_NAME}_backward",
    (LayerNormGradient, LayerNorm, MaskRows),
    "(Tensor, Tensor, Tensor, Tensor)",
    _backward_fake,
    family="layer_norm",
)
differentiable_once(f"{_NAME}_backward", _NAME)


def _setup(ctx: Any, output: tuple[Tensor, Tensor], args: LayerNorm, mask_rows: MaskRows) -> None:
    _, statistics = output
    ctx.save_for_backward(args.x, args.residual, args.weight, args.bias, args.seed, statistics)
    ctx.numbers, ctx.mask_rows = (args.eps, args.dropout_p, args.output_dropout_p), mask_rows
    ctx.mark_non_differentiable(statistics)


def _gradient(ctx: Any, grad_out: Tensor, _: Any) -> list[Tensor]:
    x, residual, weight, bias, seed, statistics = ctx.saved_tensors
    eps, dropout_p, output_dropout_p = ctx.numbers
    args = LayerNorm(x, residual, weight, bias, eps, dropout_p, output_dropout_p, seed)
    known = LayerNormGradient(grad_out.contiguous(), statistics)
    grad_x, grad_residual, *parameters = call_backward_op(f"{_NAME}_backward", ctx.backend, known, args, ctx.mask_rows)
    return [grad_x, *([] if residual is None else [grad_residual]), *parameters]


autograd(_NAME, _NAME, ("x", "residual", "weight", "bias"), _setup, _gradient)

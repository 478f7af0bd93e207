"""Op of LayerNorm with dropout and residual, rows of float32 or bfloat16, parameters of float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once

define(
    "dropout_add_layer_norm",
    "(Tensor x, Tensor? residual, Tensor weight, Tensor bias, float eps, float dropout_p, float output_dropout_p, "
    "Tensor? seed, str backend) -> (Tensor, Tensor)",
    lambda x, residual, weight, *_: (torch.empty_like(x, dtype=weight.dtype), x.new_empty((x.shape[0], 2)).float()),
)

define(
    "dropout_add_layer_norm_backward",
    "(Tensor grad_out, Tensor x, Tensor? residual, Tensor weight, Tensor bias, Tensor statistics, float eps, "
    "float dropout_p, float output_dropout_p, Tensor? seed, str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    lambda grad_out, x, residual, weight, bias, *_: (
        torch.empty_like(x),
        weight.new_empty(0) if residual is None else torch.empty_like(residual),
        torch.empty_like(weight),
        torch.empty_like(bias),
    ),
)
differentiable_once("dropout_add_layer_norm_backward", "dropout_add_layer_norm")


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, residual, weight, bias, *options, seed, backend = inputs
    ctx.save_for_backward(x, residual, weight, bias, output[1], seed)
    ctx.options, ctx.backend = options, backend
    ctx.mark_non_differentiable(output[1])


def _gradient(ctx: Any, grad_out: Tensor, _: Any) -> list[Tensor]:
    x, residual, weight, bias, statistics, seed = ctx.saved_tensors
    grad_x, grad_residual, grad_weight, grad_bias = call_backward_op(
        torch.ops.rearec.dropout_add_layer_norm_backward, grad_out.contiguous(), x, residual, weight, bias, statistics,
        *ctx.options, seed, ctx.backend,
    )  # fmt: skip
    return [grad_x, grad_weight, grad_bias, *([] if residual is None else [grad_residual])]


autograd(
    "dropout_add_layer_norm",
    "dropout_add_layer_norm",
    _setup,
    _gradient,
    lambda x, residual, weight, bias, *_: (x, weight, bias) if residual is None else (x, weight, bias, residual),
)

"""Native LayerNorm with dropout and residual: addresses for csrc/cpu/layer_norm.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.cpu.memory import empty
from rearec_kernels.dropout import seed_bits
from rearec_kernels.ops.arguments import LayerNorm, LayerNormGradient, MaskRows


def _addresses(args: LayerNorm, statistics: Tensor) -> tuple[Any, ...]:
    x, residual = args.x, args.residual
    return (
        x.data_ptr(), x.dtype == torch.bfloat16, 0 if residual is None else residual.data_ptr(), args.weight.data_ptr(),
        args.bias.data_ptr(), x.shape[0], x.shape[1], args.eps, statistics.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip


def _dropout(args: LayerNorm, mask_rows: MaskRows) -> tuple[float, float, int, MaskRows]:
    return args.dropout_p, args.output_dropout_p, seed_bits(args.seed), mask_rows


def dropout_add_layer_norm(args: LayerNorm, mask_rows: MaskRows) -> tuple[Tensor, Tensor]:
    out = empty(args.x.shape)
    statistics = torch.empty((args.x.shape[0], 2), dtype=torch.float32, device="cpu")
    native.C.layer_norm_forward(_addresses(args, statistics), _dropout(args, mask_rows), out.data_ptr())
    return out, statistics


def dropout_add_layer_norm_backward(
    known: LayerNormGradient, args: LayerNorm, mask_rows: MaskRows
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, has_residual = args.x, args.residual is not None
    grad_x = empty(x.shape, x.dtype)
    grad_residual = empty(x.shape if has_residual else (0,))
    parameters = torch.empty((torch.get_num_threads(), 2, x.shape[1]), dtype=torch.float32, device="cpu")
    native.C.layer_norm_backward(
        _addresses(args, known.statistics), _dropout(args, mask_rows), known.grad_out.data_ptr(), grad_x.data_ptr(),
        grad_residual.data_ptr() if has_residual else 0, parameters.data_ptr(),
    )  # fmt: skip
    # copies: outputs of an op must not share memory
    return grad_x, grad_residual, parameters[0, 0].clone(), parameters[0, 1].clone()

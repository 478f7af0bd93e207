"""Native LayerNorm with dropout and residual: addresses for csrc/cpu/layer_norm.cpp."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rearec_kernels import _C  # type: ignore[attr-defined]
from rearec_kernels.cpu.memory import empty


def _operands(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, statistics: Tensor | None
) -> tuple[Any, ...]:
    return (
        x.data_ptr(), x.dtype == torch.bfloat16, 0 if residual is None else residual.data_ptr(), weight.data_ptr(),
        bias.data_ptr(), x.shape[0], x.shape[1], eps, 0 if statistics is None else statistics.data_ptr(),
        torch.get_num_threads(),
    )  # fmt: skip


def _dropout(dropout_p: float, output_dropout_p: float, seed: Tensor | None) -> tuple[float, float, int]:
    return dropout_p, output_dropout_p, 0 if seed is None else int(seed) & 0xFFFFFFFFFFFFFFFF


def dropout_add_layer_norm(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dropout_p: float,
    output_dropout_p: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    out, statistics = empty(x.shape), torch.empty((x.shape[0], 2), dtype=torch.float32, device="cpu")
    _C.layer_norm_forward(
        _operands(x, residual, weight, bias, eps, statistics), _dropout(dropout_p, output_dropout_p, seed),
        out.data_ptr(),
    )  # fmt: skip
    return out, statistics


def dropout_add_layer_norm_backward(
    grad_out: Tensor, x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, statistics: Tensor, eps: float,
    dropout_p: float, output_dropout_p: float, seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_x = empty(x.shape, x.dtype)
    grad_residual = torch.empty(0, dtype=torch.float32, device="cpu") if residual is None else empty(residual.shape)
    parameters = torch.empty((torch.get_num_threads(), 2, x.shape[1]), dtype=torch.float32, device="cpu")
    _C.layer_norm_backward(
        _operands(x, residual, weight, bias, eps, statistics), _dropout(dropout_p, output_dropout_p, seed),
        grad_out.data_ptr(), grad_x.data_ptr(), 0 if residual is None else grad_residual.data_ptr(),
        parameters.data_ptr(),
    )  # fmt: skip
    # copies: outputs of an op must not share memory
    return grad_x, grad_residual, parameters[0, 0].clone(), parameters[0, 1].clone()

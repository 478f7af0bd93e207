"""Dropout, residual, LayerNorm and dropout in one pass over the rows."""

from __future__ import annotations

import torch
from torch import Tensor

import rearec_kernels.ops  # noqa: F401  (registers torch.ops.rearec)
from rearec_kernels.arguments import as_number, describe
from rearec_kernels.dispatch import resolve_backend
from rearec_kernels.dropout import checked_mask_rows, seed_tensor
from rearec_kernels.ops.arguments import LayerNorm, MaskRows
from rearec_kernels.ops.registry import implementation
from rearec_kernels.precision import operand_dtype

_NAME = "dropout_add_layer_norm"


def dropout_add_layer_norm(
    x: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float = 1e-5,
    dropout_p: float = 0.0,
    output_dropout_p: float = 0.0,
    seed: int | Tensor | None = None,
    mask_rows: MaskRows | None = None,
) -> Tensor:
    """output_dropout(LayerNorm(dropout(x) + residual)): what follows every sublayer of a post-LN Transformer.

    Differentiable once in x, residual, weight and bias. The masks are recomputed in the backward pass, so that besides
    the arguments two numbers per row are kept. Where no kernel serves the device or the dtype, PyTorch's own ops
    compute it.

    Args:
        x: [..., d], float32 or bfloat16 (others by PyTorch), e.g. the output of a linear layer under autocast.
        residual: of x's shape, or None for none.
        weight, bias: [d], of the LayerNorm.
        eps: added to the variance.
        dropout_p: probability of dropping an element of x, in [0, 1).
        output_dropout_p: likewise of the result.
        seed: of the masks, an int or int64 [1] on the device: the same on every backend, 16 bits of Philox4x32-10 for
            each element (reference.layer_norm.element_bits), so that a probability is rounded to a multiple of 2^-16.
            None draws from torch's generator.
        mask_rows: which rows of a larger call the rows are, x's leading dimensions counted as one: the masks, with or
            without a seed, are then those that the larger call has there. None: they are all rows.

    Returns:
        [..., d] in weight's dtype.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.

    Examples:
        >>> x, residual = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
        >>> weight, bias = torch.ones(2), torch.ones(2)
        >>> dropout_add_layer_norm(x, residual, weight, bias, eps=0.0)
        tensor([[0., 2.]])
        >>> dropped = dropout_add_layer_norm(x, residual, weight, bias, dropout_p=0.5, seed=1)
        >>> dropped.equal(dropout_add_layer_norm(x, residual, weight, bias, dropout_p=0.5, seed=1))
        True
    """
    _check(x, residual, weight, bias)
    eps, dropout_p = as_number(_NAME, "eps", eps), as_number(_NAME, "dropout_p", dropout_p)
    output_dropout_p = as_number(_NAME, "output_dropout_p", output_dropout_p)
    for name, p in (("dropout_p", dropout_p), ("output_dropout_p", output_dropout_p)):
        if not 0.0 <= p < 1.0:
            raise ValueError(f"{_NAME}: {name} must be in [0, 1), got {p}")
    masks = checked_mask_rows(_NAME, mask_rows)
    dtype = weight.dtype
    if dtype == torch.float32:  # else that of the parameters decides: no kernel serves it
        dtype = torch.promote_types(operand_dtype(x, weight), weight.dtype if residual is None else residual.dtype)
    backend = resolve_backend(_NAME, x.device, dtype)
    drops = dropout_p > 0 or output_dropout_p > 0
    if backend == "reference":  # PyTorch's own ops, which autograd knows: not one op of ours
        given = None if seed is None or not drops else seed_tensor(_NAME, seed, x.device)
        arguments = LayerNorm(x, residual, weight, bias, eps, dropout_p, output_dropout_p, given)
        return implementation(backend, "layer_norm", _NAME)(arguments, masks)
    width = weight.shape[0]
    rows = (x if x.dtype in (torch.float32, torch.bfloat16) else x.float()).reshape(-1, width).contiguous()
    added = None if residual is None else residual.reshape(-1, width).float().contiguous()
    mask_seed = seed_tensor(_NAME, seed, x.device) if drops else None
    out, _ = torch.ops.rearec.dropout_add_layer_norm(
        rows, added, weight.contiguous(), bias.contiguous(), eps, dropout_p, output_dropout_p, mask_seed, *masks,
        backend,
    )  # fmt: skip
    return out.view(x.shape)


def _check(x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor) -> None:
    given = {"x": x, "weight": weight, "bias": bias} | ({} if residual is None else {"residual": residual})
    for name, value in given.items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{_NAME}: {name} must be a floating-point tensor, got {describe(value)}")
        if value.device != x.device:
            raise ValueError(f"{_NAME}: {name} is on {value.device}, x on {x.device}")
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(f"{_NAME}: x must have shape [..., d] with d of at least 1, got {list(x.shape)}")
    for name, value in (("weight", weight), ("bias", bias)):
        if value.shape != x.shape[-1:]:
            raise ValueError(f"{_NAME}: {name} must have shape [d] with d = {x.shape[-1]}, got {list(value.shape)}")
    if weight.dtype != bias.dtype:
        raise ValueError(f"{_NAME}: weight and bias must have one dtype, got {weight.dtype} and {bias.dtype}")
    if residual is not None and residual.shape != x.shape:
        raise ValueError(f"{_NAME}: residual must have the shape of x {list(x.shape)}, got {list(residual.shape)}")

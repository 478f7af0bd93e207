"""Ops of the losses; gradients of scalar losses come from the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.arguments import check_items, check_values
from rearec_kernels.ops.arguments import (
    AnnealedCrossEntropy,
    EnsembleReasoning,
    EnsembleSums,
    InfoNCE,
    Needed,
    RowGradients,
    ScaledGradients,
)
from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once
from rearec_kernels.precision import accumulate_dtype

# A scalar loss returns its gradients beside it, computed in the same pass over the logits, [0] where not asked for. Its
# backward pass multiplies them by the upstream gradient out of place, so that it can run more than once. Per-row losses
# return statistics [R, T, 2] instead, from which their backward pass recomputes the softmax: the largest logit m before
# it is divided by the temperature, and the sum of exp((z - m) / temperature); anything in ignored rows. They mean the
# same in every backend: with activation checkpointing, another one may compute them again than the one that reads
# them, because autograd does that in a thread where no `use_backend` is in force.

Loss = AnnealedCrossEntropy | EnsembleReasoning | InfoNCE


def _differentiated(loss: Loss) -> tuple[Tensor, Tensor]:
    """The two tensors that a loss has gradients in are its first arguments."""
    first, second, *_ = loss
    return first, second


def _check_numbers(op: str, name: str, values: Sequence[float], positive: bool) -> None:
    for i, x in enumerate(values):
        if not math.isfinite(x) or (positive and x <= 0):
            where = f" for state {i}" if len(values) > 1 else ""
            raise ValueError(f"{op}: {name} must be finite{' and above 0' if positive else ''}, got {x}{where}")


def check_annealed(loss: AnnealedCrossEntropy, num_items: int) -> None:
    """Raises unless the values are those of a loss over items [0, num_items), where values are looked at."""
    op = "annealed_cross_entropy"
    check_items(op, "target", loss.target, num_items, loss.ignore_index)
    _check_numbers(op, "temperature", loss.temperature.tolist(), positive=True)
    _check_numbers(op, "step_weight", loss.step_weight.tolist(), positive=False)
    items, mass = loss.soft_items, loss.soft_mass
    if items is not None and mass is not None:
        check_items(op, "the items of soft_target", items, num_items, ignore_index=-1)
        there = (items if mass.dim() == 2 else items[:, None]) >= 0
        check_values(op, "the mass of soft_target", mass, least=0, counted=there)


def check_ensemble(loss: EnsembleReasoning, num_items: int) -> None:
    """The same for the ensemble loss."""
    op = "ensemble_reasoning_loss"
    check_items(op, "target", loss.target, num_items, loss.ignore_index)
    _check_numbers(op, "temperature", [loss.temperature], positive=True)
    _check_numbers(op, "kl_weight", [loss.kl_weight], positive=False)


def _check_annealed(loss: AnnealedCrossEntropy, *_: Needed) -> None:
    check_annealed(loss, loss.weight.shape[0])


def _check_ensemble(loss: EnsembleReasoning, *_: Needed) -> None:
    check_ensemble(loss, loss.weight.shape[0])


def _check_info_nce(loss: InfoNCE, *_: Needed) -> None:
    op, anchors, keys = "reasoning_info_nce", loss.noised.shape[0], loss.clean.shape[0]
    _check_numbers(op, "temperature", [loss.temperature], positive=True)
    if not 0 <= loss.first_key <= keys - anchors:
        raise ValueError(
            f"{op}: clean must have a row for each of the {anchors} of noised from first_key {loss.first_key} on, "
            f"got {keys}"
        )


def _gradients_fake(loss: Loss, needed: Needed, dtypes: tuple[torch.dtype, torch.dtype]) -> tuple[Tensor, ...]:
    tensors = zip(_differentiated(loss), needed, dtypes, strict=True)
    return tuple(x.new_empty(x.shape if need else 0, dtype=dtype) for x, need, dtype in tensors)


def _scalar_loss_fake(scalars: int) -> Callable[..., Any]:
    def fake(loss: Loss, needed: Needed) -> tuple[Tensor, ...]:
        first, second = _differentiated(loss)
        dtype = accumulate_dtype(first, second)
        losses = (first.new_empty((), dtype=dtype) for _ in range(scalars))
        return (*losses, *_gradients_fake(loss, needed, (dtype, dtype)))

    return fake


def _row_loss_fake(loss: Loss) -> tuple[Tensor, Tensor]:
    first, second = _differentiated(loss)
    rows, steps, _ = first.shape
    dtype = accumulate_dtype(first, second)
    return first.new_empty((rows, steps), dtype=dtype), first.new_empty((rows, steps, 2), dtype=dtype)


def _row_gradients_fake(_: RowGradients, loss: Loss, needed: Needed) -> tuple[Tensor, ...]:
    first, second = _differentiated(loss)
    return _gradients_fake(loss, needed, (first.dtype, second.dtype))


define(
    "scaled_gradients",
    (ScaledGradients,),
    "(Tensor, Tensor)",
    lambda args: (
        torch.empty_like(args.first_gradient, dtype=args.first.dtype),
        torch.empty_like(args.second_gradient, dtype=args.second.dtype),
    ),
    family="losses",
)
differentiable_once("scaled_gradients", "a loss of rearec_kernels")


def scaled_gradients(args: ScaledGradients) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch, for the backends that have nothing better."""
    return (
        (args.first_gradient * args.upstream).to(args.first.dtype),
        (args.second_gradient * args.upstream).to(args.second.dtype),
    )


def _scalar_loss_setup(ctx: Any, output: tuple[Tensor, ...], loss: Loss, needed: Needed) -> None:
    _, *rest = output  # the loss itself comes first
    *_, first_gradient, second_gradient = rest
    ctx.mark_non_differentiable(*rest)
    keep_gradients(ctx, (*_differentiated(loss), first_gradient, second_gradient), needed)


def keep_gradients(ctx: Any, tensors: tuple[Tensor, ...], needed: Needed) -> None:
    """For `scalar_loss_gradient`: the two tensors that are differentiated, and the gradients of the loss in them."""
    ctx.save_for_backward(*tensors)
    ctx.needed = needed


# Not public; where it is missing, gradients are always copied.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _is_plain_one(upstream: Tensor) -> bool:
    """Whether the loss is what is differentiated, as far as that can be told without waiting for a GPU: then a copy of
    the table's gradient, the largest tensor of a training step, is saved. Not where the graph is kept for another
    backward pass, which would hand out the same tensors."""
    if type(upstream) is not Tensor or upstream.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() or _keeps_graph()) and upstream.item() == 1


def scalar_loss_gradient(ctx: Any, upstream: Tensor, *_: Any) -> list[Tensor | None]:
    """The backward pass of a loss whose gradients were kept."""
    first, second, *gradients = ctx.saved_tensors  # once: checkpointing recomputes what is asked for again
    as_they_are = first.dtype == gradients[0].dtype and second.dtype == gradients[1].dtype and _is_plain_one(upstream)
    if not as_they_are:
        args = ScaledGradients(upstream, first, second, *gradients)
        gradients = call_backward_op("scaled_gradients", ctx.backend, args)
    return [g if need else None for g, need in zip(gradients, ctx.needed, strict=True)]


def _define_scalar_loss(
    name: str, record: type[Any], differentiable: Sequence[str], check: Callable[..., None], scalars: int = 1
) -> None:
    """The mean of a loss, with its terms if it has some, and its gradients."""
    returns = f"({', '.join(['Tensor'] * (scalars + 2))})"
    define(name, (record, Needed), returns, _scalar_loss_fake(scalars), family="losses", check=check)
    autograd(name, name, differentiable, _scalar_loss_setup, scalar_loss_gradient)


def _define_row_loss(name: str, record: type[Any], differentiable: Sequence[str], check: Callable[..., None]) -> None:
    """The per-row form of a loss, and its backward op, which takes the same arguments after what the forward gave."""
    define(f"{name}_rows", (record,), "(Tensor, Tensor)", _row_loss_fake, family="losses", check=check)
    define(
        f"{name}_rows_backward",
        (RowGradients, record, Needed),
        "(Tensor, Tensor)",
        _row_gradients_fake,
        family="losses",
    )
    differentiable_once(f"{name}_rows_backward", name)

    def setup(ctx: Any, output: tuple[Tensor, Tensor], loss: Any) -> None:
        _, statistics = output
        ctx.is_tensor = [isinstance(x, Tensor) for x in loss]
        ctx.save_for_backward(statistics, *[x for x in loss if isinstance(x, Tensor)])
        ctx.without_tensors = [None if isinstance(x, Tensor) else x for x in loss]
        ctx.mark_non_differentiable(statistics)

    def backward(ctx: Any, upstream: Tensor, _: Any) -> list[Tensor | None]:
        statistics, *saved = ctx.saved_tensors
        tensors = iter(saved)
        given = zip(ctx.without_tensors, ctx.is_tensor, strict=True)
        loss = record(*[next(tensors) if is_tensor else x for x, is_tensor in given])
        first, second, *_ = ctx.needs_input_grad
        needed, known = Needed(first, second), RowGradients(upstream.contiguous(), statistics)
        gradients = call_backward_op(f"{name}_rows_backward", ctx.backend, known, loss, needed)
        return [g if need else None for g, need in zip(gradients, needed, strict=True)]

    autograd(f"{name}_rows", name, differentiable, setup, backward)


def _ensemble_sums_fake(loss: EnsembleReasoning) -> tuple[Tensor, ...]:
    rows, steps, _ = loss.hidden.shape
    dtype = accumulate_dtype(loss.hidden, loss.weight)
    shapes = (rows, steps + 1), (rows, steps + 1), (rows, steps), (rows,)
    return tuple(loss.hidden.new_empty(shape, dtype=dtype) for shape in shapes)


def _ensemble_gradients_fake(_: EnsembleSums, loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, ...]:
    dtype = accumulate_dtype(loss.hidden, loss.weight)
    return _gradients_fake(loss, needed, (dtype, dtype))


# The two passes of the ensemble loss by themselves, for a table that is cut into slices.
define(
    "ensemble_sums",
    (EnsembleReasoning,),
    "(Tensor, Tensor, Tensor, Tensor)",
    _ensemble_sums_fake,
    family="losses",
    not_differentiated="ensemble_reasoning_loss",
)
define(
    "ensemble_gradients",
    (EnsembleSums, EnsembleReasoning, Needed),
    "(Tensor, Tensor)",
    _ensemble_gradients_fake,
    family="losses",
)
differentiable_once("ensemble_gradients", "ensemble_reasoning_loss")


_CATALOG, _CONTRAST = ("hidden", "weight"), ("noised", "clean")
_define_scalar_loss("annealed_cross_entropy", AnnealedCrossEntropy, _CATALOG, _check_annealed)
_define_scalar_loss("ensemble_reasoning_loss", EnsembleReasoning, _CATALOG, _check_ensemble, scalars=3)
_define_scalar_loss("reasoning_info_nce", InfoNCE, _CONTRAST, _check_info_nce)
_define_row_loss("annealed_cross_entropy", AnnealedCrossEntropy, _CATALOG, _check_annealed)
_define_row_loss("reasoning_info_nce", InfoNCE, _CONTRAST, _check_info_nce)

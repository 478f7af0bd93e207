"""Ops of the losses; gradients of scalar losses come from the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.arguments import check_items
from rearec_kernels.dispatch import implementation
from rearec_kernels.ops.registry import autograd, call_backward_op, define, differentiable_once
from rearec_kernels.precision import accumulate_dtype

# A scalar loss returns its gradients beside it, computed in the same pass over the logits, [0] where not asked for. Its
# backward pass multiplies them by the upstream gradient out of place, so that it can run more than once. Per-row losses
# return statistics [R, T, 2] instead, from which their backward pass recomputes the softmax: the largest logit m before
# it is divided by the temperature, and the sum of exp((z - m) / temperature); anything in ignored rows. They mean the
# same in every backend: with activation checkpointing, another one may compute them again than the one that reads
# them, because autograd does that in a thread where no `use_backend` is in force.


def _checked_loss(name: str, check: Callable[..., None]) -> Callable[..., Any]:
    """Looks at values here, not in the public call: this also runs under torch.compile."""

    def run(*args: Any) -> Any:
        *arguments, backend = args
        check(*arguments)
        return implementation(backend, name)(*arguments)

    return run


def _check_numbers(op: str, name: str, values: Sequence[float], positive: bool) -> None:
    for i, x in enumerate(values):
        if not math.isfinite(x) or (positive and x <= 0):
            where = f" for state {i}" if len(values) > 1 else ""
            raise ValueError(f"{op}: {name} must be finite{' and above 0' if positive else ''}, got {x}{where}")


def _check_annealed(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor, *_: Any
) -> None:
    op = "annealed_cross_entropy"
    check_items(op, "target", target, weight.shape[0], ignore_index)
    _check_numbers(op, "temperature", temperature.tolist(), positive=True)
    _check_numbers(op, "step_weight", step_weight.tolist(), positive=False)


def _check_ensemble(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: float, kl_weight: float, *_: Any
) -> None:
    op = "ensemble_reasoning_loss"
    check_items(op, "target", target, weight.shape[0], ignore_index)
    _check_numbers(op, "temperature", [temperature], positive=True)
    _check_numbers(op, "kl_weight", [kl_weight], positive=False)


def _check_info_nce(noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, *_: Any) -> None:
    _check_numbers("reasoning_info_nce", "temperature", [temperature], positive=True)


def _gradients_fake(first: Tensor, second: Tensor, needed: Sequence[bool]) -> tuple[Tensor, Tensor]:
    dtype = accumulate_dtype(first, second)
    first_needed, second_needed = needed
    return (
        first.new_empty(first.shape if first_needed else 0, dtype=dtype),
        second.new_empty(second.shape if second_needed else 0, dtype=dtype),
    )


def _scalar_loss_fake(scalars: int) -> Callable[..., Any]:
    def fake(first: Tensor, second: Tensor, *options: Any) -> tuple[Tensor, ...]:
        dtype = accumulate_dtype(first, second)
        losses = (first.new_empty((), dtype=dtype) for _ in range(scalars))
        return (*losses, *_gradients_fake(first, second, options[-3:-1]))

    return fake


def _row_loss_fake(first: Tensor, second: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    rows, steps, _ = first.shape
    dtype = accumulate_dtype(first, second)
    return first.new_empty((rows, steps), dtype=dtype), first.new_empty((rows, steps, 2), dtype=dtype)


# `first` and `second` are there for their dtypes, and for a second differentiation to find this op and be told no.
define(
    "scaled_gradients",
    "(Tensor upstream, Tensor first, Tensor second, Tensor first_gradient, Tensor second_gradient, str backend) "
    "-> (Tensor, Tensor)",
    lambda upstream, first, second, first_gradient, second_gradient, backend: (
        torch.empty_like(first_gradient, dtype=first.dtype),
        torch.empty_like(second_gradient, dtype=second.dtype),
    ),
)
differentiable_once("scaled_gradients", "a loss of rearec_kernels")


def _scalar_loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:2], *output[-2:])
    ctx.needed, ctx.backend = inputs[-3:-1], inputs[-1]
    ctx.mark_non_differentiable(*output[1:])


# Not public; where it is missing, gradients are always copied.
_keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)


def _is_plain_one(upstream: Tensor) -> bool:
    """Whether the loss is what is differentiated, as far as that can be told without waiting for a GPU: then a copy of
    the table's gradient, the largest tensor of a training step, is saved. Not where the graph is kept for another
    backward pass, which would hand out the same tensors."""
    if type(upstream) is not Tensor or upstream.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return not (torch.is_grad_enabled() or _keeps_graph()) and upstream.item() == 1


def _scalar_loss_gradient(ctx: Any, upstream: Tensor, *_: Any) -> list[Tensor | None]:
    first, second, *gradients = ctx.saved_tensors  # once: checkpointing recomputes what is asked for again
    as_they_are = first.dtype == gradients[0].dtype and second.dtype == gradients[1].dtype and _is_plain_one(upstream)
    if not as_they_are:
        op = torch.ops.rearec.scaled_gradients
        gradients = call_backward_op(op, upstream, first, second, *gradients, ctx.backend)
    return [g if need else None for g, need in zip(gradients, ctx.needed, strict=True)]


_CATALOG = "Tensor hidden, Tensor weight, Tensor target, int ignore_index"
_ANNEALED = f"{_CATALOG}, Tensor temperature, Tensor step_weight, str precision"
_NEEDED = "bool first_needed, bool second_needed, str backend"

define(
    "annealed_cross_entropy",
    f"({_ANNEALED}, {_NEEDED}) -> (Tensor, Tensor, Tensor)",
    _scalar_loss_fake(1),
    run=_checked_loss("annealed_cross_entropy", _check_annealed),
)
autograd("annealed_cross_entropy", "annealed_cross_entropy", _scalar_loss_setup, _scalar_loss_gradient)

define(
    "ensemble_reasoning_loss",
    f"({_CATALOG}, float temperature, float kl_weight, str kl_form, str precision, {_NEEDED}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scalar_loss_fake(3),
    run=_checked_loss("ensemble_reasoning_loss", _check_ensemble),
)
autograd("ensemble_reasoning_loss", "ensemble_reasoning_loss", _scalar_loss_setup, _scalar_loss_gradient)

_INFO_NCE = "Tensor noised, Tensor clean, Tensor? row_group, float temperature, str precision"

define(
    "reasoning_info_nce",
    f"({_INFO_NCE}, {_NEEDED}) -> (Tensor, Tensor, Tensor)",
    _scalar_loss_fake(1),
    run=_checked_loss("reasoning_info_nce", _check_info_nce),
)
autograd("reasoning_info_nce", "reasoning_info_nce", _scalar_loss_setup, _scalar_loss_gradient)


def _define_row_loss(name: str, arguments: str, check: Callable[..., None]) -> None:
    """The per-row form of a loss, and its backward op, which takes the same arguments after what the forward gave."""
    run = _checked_loss(f"{name}_rows", check)
    define(f"{name}_rows", f"({arguments}, str backend) -> (Tensor, Tensor)", _row_loss_fake, run=run)
    define(
        f"{name}_rows_backward",
        f"(Tensor upstream, Tensor statistics, {arguments}, {_NEEDED}) -> (Tensor, Tensor)",
        lambda upstream, statistics, first, second, *options: tuple(
            torch.empty_like(g, dtype=x.dtype)
            for g, x in zip(_gradients_fake(first, second, options[-3:-1]), (first, second), strict=True)
        ),
    )
    differentiable_once(f"{name}_rows_backward", name)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.is_tensor = [isinstance(x, Tensor) for x in inputs]
        ctx.save_for_backward(output[1], *(x for x in inputs if isinstance(x, Tensor)))
        ctx.options = [x for x in inputs if not isinstance(x, Tensor)]
        ctx.mark_non_differentiable(output[1])

    def backward(ctx: Any, upstream: Tensor, _: Any) -> list[Tensor | None]:
        statistics, *saved = ctx.saved_tensors
        tensors, options = iter(saved), iter(ctx.options)
        *arguments, backend = (next(tensors if is_tensor else options) for is_tensor in ctx.is_tensor)
        needed = ctx.needs_input_grad[:2]
        op = getattr(torch.ops.rearec, f"{name}_rows_backward")
        gradients = call_backward_op(op, upstream.contiguous(), statistics, *arguments, *needed, backend)
        return [g if need else None for g, need in zip(gradients, needed, strict=True)]

    autograd(f"{name}_rows", name, setup, backward)


_define_row_loss("annealed_cross_entropy", _ANNEALED, _check_annealed)
_define_row_loss("reasoning_info_nce", _INFO_NCE, _check_info_nce)

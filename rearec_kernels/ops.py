"""One torch.library schema per op, with its fake kernel and its autograd formula beside it.

The last argument of every op names the backend; `dispatch.implementation` finds the function. Backward passes are ops
of their own, so that torch.compile sees them as opaque calls, and differentiating one of them raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.checks import check_items, check_offsets
from rearec_kernels.dispatch import implementation
from rearec_kernels.precision import accumulate_dtype

_LIBRARY = torch.library.Library("rearec", "DEF")


def _define(name: str, schema: str, fake: Callable[..., Any], run: Callable[..., Any] | None = None) -> None:
    """Declares rearec::name. Without `run`, the function `name` of the module of the chosen backend computes it."""
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))

    def run_backend(*args: Any) -> Any:
        *arguments, backend = args
        return implementation(backend, name)(*arguments)

    _LIBRARY.impl(name, run or run_backend, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rearec::{name}", fake, lib=_LIBRARY)


def _autograd(name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
    torch.library.register_autograd(f"rearec::{name}", backward, setup_context=setup_context, lib=_LIBRARY)


def _differentiable_once(name: str, what: str) -> None:
    """Makes differentiating the backward op `name` an error instead of a silently missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{what} can be differentiated once: its backward pass has no derivative")

    _autograd(name, lambda ctx, inputs, output: None, backward)


# --- Attention of reasoning tokens -----------------------------------------------------------------------------------
#
# Gradients of the prefix. dK = sum_k ds_k q_k and dV = sum_k p_k do_k over all steps k are written once, by the node
# that opened the cache. Each step carries its (ds, p, q, do) there as the *gradients* of four tensors that the opening
# node made for it and that hold no data (expanded from one element): autograd then runs the opening node last, and
# there is no state to go stale under retain_graph, a repeated backward pass or an unused step.

_ROWS = "Tensor start, Tensor end, Tensor row_prefix, Tensor order"

_define(
    "attention_decode",
    "(Tensor q, Tensor k, Tensor v, Tensor prefix_k, Tensor prefix_v, Tensor(a!) token_k, Tensor(b!) token_v, "
    f"{_ROWS}, int length, float scale, float dropout_p, Tensor? seed, str backend) -> Tensor",
    lambda q, *_: torch.empty_like(q, memory_format=torch.contiguous_format),
)


def _attention_fake(
    q: Tensor, token_k: Sequence[Tensor], token_v: Sequence[Tensor], prefix_k: Tensor, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    rows, queries, heads, _ = q.shape
    tokens = sum(k.shape[1] for k in token_k)
    accumulate = torch.promote_types(q.dtype, torch.float32)
    return (
        torch.empty_like(q, memory_format=torch.contiguous_format),
        q.new_empty((rows, heads, queries, prefix_k.shape[1]), dtype=accumulate),
        q.new_empty((rows, heads, queries, tokens), dtype=accumulate),
    )


_define(
    "attention",
    "(Tensor q, Tensor[] token_k, Tensor[] token_v, Tensor prefix_k, Tensor prefix_v, Tensor[] carriers, "
    f"{_ROWS}, float scale, float dropout_p, Tensor? seed, str backend) -> (Tensor, Tensor, Tensor)",
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


_define(
    "attention_backward",
    "(Tensor grad_out, Tensor q, Tensor[] token_k, Tensor[] token_v, Tensor prefix_k, Tensor prefix_v, "
    f"Tensor prefix_probs, Tensor token_probs, {_ROWS}, float scale, float dropout_p, str backend) "
    "-> (Tensor, Tensor[], Tensor[], Tensor)",
    _attention_backward_fake,
)
_differentiable_once("attention_backward", "cached_reason_attention")


def _attention_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, token_k, token_v, prefix_k, prefix_v, carriers, *rows, scale, dropout_p, _, backend = inputs
    ctx.save_for_backward(q, *token_k, *token_v, prefix_k, prefix_v, *output[1:], *rows)
    ctx.steps, ctx.carried, ctx.options = len(token_k), len(carriers) > 0, (scale, dropout_p, backend)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _attention_gradient(ctx: Any, grad_out: Tensor | None, *_: Any) -> tuple[Any, ...]:
    unused = (None,) * 8
    if grad_out is None:
        return None, [None] * ctx.steps, [None] * ctx.steps, None, None, [None] * (4 * ctx.carried), *unused
    n = ctx.steps
    q, *saved = ctx.saved_tensors
    token_k, token_v, (prefix_k, prefix_v, prefix_probs, token_probs, *rows) = saved[:n], saved[n : 2 * n], saved[2 * n :]
    scale, dropout_p, backend = ctx.options
    grad_out = grad_out.contiguous()
    grad_q, grad_k, grad_v, dscores = torch.ops.rearec.attention_backward(
        grad_out, q, token_k, token_v, prefix_k, prefix_v, prefix_probs, token_probs, *rows, scale, dropout_p, backend
    )
    carried: list[Tensor] = []
    if ctx.carried:
        carried = [dscores, prefix_probs, q, grad_out / (1 - dropout_p) if dropout_p > 0 else grad_out]
    return grad_q, grad_k, grad_v, None, None, carried, *unused


_autograd("attention", _attention_setup, _attention_gradient)


def _open_prefix(
    prefix_k: Tensor, prefix_v: Tensor, start: Tensor, end: Tensor, row_prefix: Tensor, order: Tensor, offsets: Tensor,
    steps: int, queries: int, heads: int, backend: str,
) -> list[Tensor]:  # fmt: skip
    rows, (_, slots, _, width) = start.shape[0], prefix_k.shape
    accumulate = torch.promote_types(prefix_k.dtype, torch.float32)
    scores, vectors = (rows, heads, queries, slots), (rows, queries, heads, width)
    one_step = ((scores, accumulate), (scores, accumulate), (vectors, prefix_k.dtype), (vectors, prefix_k.dtype))
    return [prefix_k.new_zeros((), dtype=dtype).expand(shape) for _ in range(steps) for shape, dtype in one_step]


_define(
    "attention_open_prefix",
    f"(Tensor prefix_k, Tensor prefix_v, {_ROWS}, Tensor offsets, int steps, int queries, int heads, str backend) "
    "-> Tensor[]",
    _open_prefix,
    run=_open_prefix,
)

_define(
    "attention_prefix_gradient",
    "(Tensor[] dscores, Tensor[] probs, Tensor[] q, Tensor[] grad_out, Tensor prefix_k, Tensor prefix_v, "
    f"{_ROWS}, Tensor offsets, str backend) -> (Tensor, Tensor)",
    lambda dscores, probs, q, grad_out, prefix_k, prefix_v, *_: (
        torch.empty_like(prefix_k, memory_format=torch.contiguous_format),
        torch.empty_like(prefix_v, memory_format=torch.contiguous_format),
    ),
)
_differentiable_once("attention_prefix_gradient", "cached_reason_attention")


def _open_prefix_setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    prefix_k, prefix_v, *rows, _, _, _, backend = inputs
    # Plain attributes: reopening a prefix while activation checkpointing recomputes must not add a saved tensor. They
    # are detached and only their shape and dtype is read, or index tensors that never need a gradient.
    ctx.prefix, ctx.rows, ctx.backend = (prefix_k.detach(), prefix_v.detach()), rows, backend
    ctx.set_materialize_grads(False)


def _open_prefix_gradient(ctx: Any, grads: Sequence[Tensor | None]) -> tuple[Any, ...]:
    unused = (None,) * 9
    used = [grads[i : i + 4] for i in range(0, len(grads), 4) if grads[i] is not None]
    if not used:
        return None, None, *unused
    dscores, probs, q, grad_out = ([t.contiguous() for t in kind] for kind in zip(*used, strict=True))
    grad_k, grad_v = torch.ops.rearec.attention_prefix_gradient(
        dscores, probs, q, grad_out, *ctx.prefix, *ctx.rows, ctx.backend
    )
    return grad_k, grad_v, *unused


_autograd("attention_open_prefix", _open_prefix_setup, _open_prefix_gradient)


# --- Losses ----------------------------------------------------------------------------------------------------------
#
# A scalar loss returns its gradients beside it, computed in the same pass over the logits, [0] where not asked for. Its
# backward pass multiplies them by the upstream gradient out of place, so that it can run more than once. Per-row losses
# return two numbers per row and step instead, and their backward pass recomputes the logits from these.


def _checked_loss(name: str, check: Callable[..., None]) -> Callable[..., Any]:
    """Looks at values here, not in the public call: this also runs under torch.compile."""

    def run(*args: Any) -> Any:
        *arguments, backend = args
        check(*arguments)
        return implementation(backend, name)(*arguments)

    return run


def _check_numbers(op: str, name: str, values: Sequence[float], positive: bool) -> None:
    if not all(math.isfinite(x) and (x > 0 or not positive) for x in values):
        wanted = "finite and above 0" if positive else "finite"
        raise ValueError(f"{op}: {name} must be {wanted}, got {values[0] if len(values) == 1 else values}")


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


def _scaled_gradients(
    upstream: Tensor, first: Tensor, second: Tensor, first_gradient: Tensor, second_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    # `first` and `second` are there for their dtypes, and for a second differentiation to find this op and be told no.
    return (first_gradient * upstream).to(first.dtype), (second_gradient * upstream).to(second.dtype)


_define(
    "scaled_gradients",
    "(Tensor upstream, Tensor first, Tensor second, Tensor first_gradient, Tensor second_gradient) -> (Tensor, Tensor)",
    lambda upstream, first, second, first_gradient, second_gradient: (
        torch.empty_like(first_gradient, dtype=first.dtype),
        torch.empty_like(second_gradient, dtype=second.dtype),
    ),
    run=_scaled_gradients,
)
_differentiable_once("scaled_gradients", "a loss of rearec_kernels")


def _scalar_loss_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:2], *output[-2:])
    ctx.needed, ctx.unused = inputs[-3:-1], (None,) * (len(inputs) - 2)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _scalar_loss_gradient(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
    if upstream is None:
        return None, None, *ctx.unused
    gradients = torch.ops.rearec.scaled_gradients(upstream, *ctx.saved_tensors)
    return *(g if need else None for g, need in zip(gradients, ctx.needed, strict=True)), *ctx.unused


_CATALOG = "Tensor hidden, Tensor weight, Tensor target, int ignore_index"
_ANNEALED = f"{_CATALOG}, Tensor temperature, Tensor step_weight, str precision"
_NEEDED = "bool first_needed, bool second_needed, str backend"

_define(
    "annealed_cross_entropy",
    f"({_ANNEALED}, {_NEEDED}) -> (Tensor, Tensor, Tensor)",
    _scalar_loss_fake(1),
    run=_checked_loss("annealed_cross_entropy", _check_annealed),
)
_autograd("annealed_cross_entropy", _scalar_loss_setup, _scalar_loss_gradient)

_define(
    "ensemble_reasoning_loss",
    f"({_CATALOG}, float temperature, float kl_weight, str kl_form, str precision, {_NEEDED}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _scalar_loss_fake(3),
    run=_checked_loss("ensemble_reasoning_loss", _check_ensemble),
)
_autograd("ensemble_reasoning_loss", _scalar_loss_setup, _scalar_loss_gradient)

_INFO_NCE = "Tensor noised, Tensor clean, Tensor? row_group, float temperature, str precision"

_define(
    "reasoning_info_nce",
    f"({_INFO_NCE}, {_NEEDED}) -> (Tensor, Tensor, Tensor)",
    _scalar_loss_fake(1),
    run=_checked_loss("reasoning_info_nce", _check_info_nce),
)
_autograd("reasoning_info_nce", _scalar_loss_setup, _scalar_loss_gradient)


def _define_row_loss(name: str, arguments: str, check: Callable[..., None]) -> None:
    """The per-row form of a loss, and its backward op, which takes the same arguments after what the forward gave."""
    run = _checked_loss(f"{name}_rows", check)
    _define(f"{name}_rows", f"({arguments}, str backend) -> (Tensor, Tensor)", _row_loss_fake, run=run)
    _define(
        f"{name}_rows_backward",
        f"(Tensor upstream, Tensor statistics, {arguments}, {_NEEDED}) -> (Tensor, Tensor)",
        lambda upstream, statistics, first, second, *options: tuple(
            torch.empty_like(g, dtype=x.dtype)
            for g, x in zip(_gradients_fake(first, second, options[-3:-1]), (first, second), strict=True)
        ),
    )
    _differentiable_once(f"{name}_rows_backward", name)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.is_tensor = [isinstance(x, Tensor) for x in inputs]
        ctx.save_for_backward(output[1], *(x for x in inputs if isinstance(x, Tensor)))
        ctx.options = [x for x in inputs if not isinstance(x, Tensor)]
        ctx.mark_non_differentiable(output[1])
        ctx.set_materialize_grads(False)

    def backward(ctx: Any, upstream: Tensor | None, _: Any) -> tuple[Any, ...]:
        unused = (None,) * (len(ctx.is_tensor) - 2)
        if upstream is None:
            return None, None, *unused
        statistics, *saved = ctx.saved_tensors
        tensors, options = iter(saved), iter(ctx.options)
        *arguments, backend = (next(tensors if is_tensor else options) for is_tensor in ctx.is_tensor)
        needed = ctx.needs_input_grad[:2]
        gradients = getattr(torch.ops.rearec, f"{name}_rows_backward")(
            upstream.contiguous(), statistics, *arguments, *needed, backend
        )
        return *(g if need else None for g, need in zip(gradients, needed, strict=True)), *unused

    _autograd(f"{name}_rows", setup, backward)


_define_row_loss("annealed_cross_entropy", _ANNEALED, _check_annealed)
_define_row_loss("reasoning_info_nce", _INFO_NCE, _check_info_nce)


# --- Retrieval -------------------------------------------------------------------------------------------------------

_EXCLUDE = "Tensor? exclude_offsets, Tensor? exclude_items"


def _checked_retrieval(name: str) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        *arguments, backend = args
        _, weight, target, offsets, items, _ = arguments
        if name == "catalog_rank":
            check_items(name, "target", target, weight.shape[0])
        if items is not None:
            check_items(name, "exclude", items, weight.shape[0])
            check_offsets(name, offsets, items)
        return implementation(backend, name)(*arguments)

    return run


_define(
    "catalog_topk",
    f"(Tensor hidden, Tensor weight, int k, {_EXCLUDE}, str precision, str backend) -> (Tensor, Tensor)",
    lambda hidden, weight, k, *_: (
        hidden.new_empty((hidden.shape[0], k), dtype=torch.float32),
        hidden.new_empty((hidden.shape[0], k), dtype=torch.int64),
    ),
    run=_checked_retrieval("catalog_topk"),
)

_define(
    "catalog_rank",
    f"(Tensor hidden, Tensor weight, Tensor target, {_EXCLUDE}, str precision, str backend) -> Tensor",
    lambda hidden, *_: hidden.new_empty(hidden.shape[0], dtype=torch.float32),
    run=_checked_retrieval("catalog_rank"),
)

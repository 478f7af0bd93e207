"""How an op is declared: its schema, its fake kernel, its autograd formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from rearec_kernels.arguments import refuse_tangents
from rearec_kernels.dispatch import implementation

_LIBRARY = torch.library.Library("rearec", "DEF")


def define(
    name: str,
    schema: str,
    fake: Callable[..., Any],
    run: Callable[..., Any] | None = None,
    not_differentiated: str | None = None,
) -> None:
    """Declares rearec::name.

    Args:
        run: computes it; by default the function `name` of the module of the chosen backend.
        not_differentiated: for an op that is to have no derivative, the public call that a forward-mode derivative
            through it is refused for.
    """
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))

    def run_backend(*args: Any) -> Any:
        *arguments, backend = args
        return implementation(backend, name)(*arguments)

    _LIBRARY.impl(name, run or run_backend, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rearec::{name}", fake, lib=_LIBRARY)
    if not_differentiated is not None:
        compute = _below_autograd(name)

        def kernel(keyset: Any, *arguments: Any) -> Any:
            refuse_tangents(not_differentiated, _tensors(arguments))
            return compute(keyset, arguments)

        _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def _below_autograd(name: str) -> Callable[[Any, tuple[Any, ...]], Any]:
    """What calls rearec::name with a set of dispatch keys and its arguments, unseen by autograd."""
    op = getattr(torch.ops.rearec, name).default

    def compute(keyset: Any, arguments: tuple[Any, ...]) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op.redispatch(keyset & torch._C._after_autograd_keyset, *arguments)

    return compute


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for x in arguments:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from x


def _first_two(first: Tensor, second: Tensor, *_: Any) -> Sequence[Tensor]:
    return first, second


def autograd(
    name: str,
    what: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
    differentiable: Callable[..., Sequence[Tensor]] = _first_two,
) -> None:
    """Gives rearec::name its derivative.

    torch.library.register_autograd would do, but what it runs in every call, for lists of tensors above all, takes
    longer than a small kernel. Here autograd sees only the tensors that `differentiable` picks.

    Args:
        what: the public call that it belongs to, for errors.
        setup_context: called with ctx, the op's arguments and its results, which are tensors or one list of them.
        backward: called with ctx and the gradient of each result, None where there is none but not all None; returns
            the gradient of each differentiable tensor. More of them may follow if they are None.
        differentiable: called with the op's arguments; by default, the first two.
    """
    compute = _below_autograd(name)

    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *_, keyset, arguments = inputs
        results = compute(keyset, arguments)
        setup_context(ctx, arguments, results)
        ctx.set_materialize_grads(False)
        return tuple(results)

    def backward_or_nothing(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        return *backward(ctx, *grads), None, None

    functions = {"forward": staticmethod(forward), "backward": staticmethod(backward_or_nothing)}
    derivative: Any = type(f"rearec_{name}", (torch.autograd.Function,), functions)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        refuse_tangents(what, _tensors(arguments))
        tensors = differentiable(*arguments)
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return derivative.apply(*tensors, keyset, arguments)
        return compute(keyset, arguments)

    _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def differentiable_once(name: str, what: str) -> None:
    """Makes differentiating the backward op `name` an error instead of a silently missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{what} can be differentiated once: its backward pass has no derivative")

    torch.library.register_autograd(f"rearec::{name}", backward, lib=_LIBRARY)


def call_backward_op(op: Any, *arguments: Any) -> Any:
    """Calls an op of `differentiable_once`, past its autograd kernel where the backward pass is not recorded."""
    if torch.is_grad_enabled():
        return op(*arguments)
    with torch._C._AutoDispatchBelowAutograd():
        return op(*arguments)

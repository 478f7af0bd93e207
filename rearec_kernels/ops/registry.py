"""How an op is declared: its arguments, its fake kernel, its autograd formula; and where its implementations are."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, get_type_hints

import torch
from torch import Tensor

from rearec_kernels.arguments import refuse_tangents
from rearec_kernels.ops.arguments import Written

Records = tuple[type[Any], ...]  # classes of ops/arguments.py

_LIBRARY = torch.library.Library("rearec", "DEF")
_BelowAutograd: Any = torch._C._AutoDispatchBelowAutograd
_RECORDS: dict[str, Records] = {}  # by op
_SCHEMA_TYPES: dict[Any, str] = {
    Tensor: "Tensor",
    Tensor | None: "Tensor?",
    Sequence[Tensor]: "Tensor[]",
    Sequence[Tensor] | None: "Tensor[]?",
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
}


def implementation(backend: str, family: str, name: str) -> Callable[..., Any]:
    """The function `name` of a backend's module for a family of ops, e.g. rearec_kernels.cpu.losses."""
    return getattr(importlib.import_module(f"rearec_kernels.{backend}.{family}"), name)


def define(
    name: str,
    records: Records,
    returns: str,
    fake: Callable[..., Any],
    *,
    family: str = "",
    check: Callable[..., None] | None = None,
    run: Callable[..., Any] | None = None,
    not_differentiated: str | None = None,
) -> None:
    """Declares rearec::name, whose arguments are the fields of the records and, last, the name of the backend.

    Args:
        records: of ops/arguments.py. All functions here are called with one of each.
        returns: the type of the results, in the language of schemas.
        fake: makes results of the right shapes and dtypes.
        family: computes it: the function `name` of the chosen backend's module of this name.
        check: looks at values first. Here and not in the public call, because this runs under torch.compile too.
        run: computes it whatever the backend, instead of the family.
        not_differentiated: for an op that is to have no derivative, the public call that a forward-mode derivative
            through it is refused for.
    """
    _RECORDS[name] = records
    pack = _packer(records)

    @functools.cache
    def find(backend: str) -> Callable[..., Any]:
        return run or implementation(backend, family, name)

    def run_backend(*arguments: Any) -> Any:
        packed = pack(arguments)
        if check is not None:
            check(*packed)
        return find(arguments[-1])(*packed)

    schema = f"({', '.join(_schema(records))}, str backend) -> {returns}"
    declare(name, schema, lambda *arguments: fake(*pack(arguments)), run_backend)
    if not_differentiated is not None:
        compute = _below_autograd(name)

        def kernel(keyset: Any, *arguments: Any) -> Any:
            refuse_tangents(not_differentiated, _tensors(arguments))
            return compute(keyset, arguments)

        _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def declare(name: str, schema: str, fake: Callable[..., Any], run: Callable[..., Any]) -> None:
    """Declares rearec::name by its schema; `fake` and `run` are called with the arguments as they are."""
    _LIBRARY.define(f"{name}{schema}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"rearec::{name}", fake, lib=_LIBRARY)


def _schema(records: Records) -> Iterator[str]:
    """Type and name of every argument."""
    letters = iter("abcd")  # what is written in place needs one each
    for record in records:
        for name, kind in get_type_hints(record, include_extras=True).items():
            yield f"Tensor({next(letters)}!) {name}" if kind == Written else f"{_SCHEMA_TYPES[kind]} {name}"


def _packer(records: Records) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """What makes records of the arguments of an op; those after them are left out."""
    parts: list[tuple[type[Any], slice]] = []
    first = 0
    for record in records:
        parts.append((record, slice(first, first + len(record._fields))))
        first += len(record._fields)
    new: Any = tuple.__new__  # what a record's _make does, without a look at the length: the schema has the fields
    # No loop for most ops: a small kernel takes a few microseconds.
    if len(parts) == 1:
        ((only, part),) = parts
        return lambda arguments: (new(only, arguments[part]),)
    if len(parts) == 2:
        (record_a, part_a), (record_b, part_b) = parts
        return lambda arguments: (new(record_a, arguments[part_a]), new(record_b, arguments[part_b]))
    if len(parts) == 3:
        (record_a, part_a), (record_b, part_b), (record_c, part_c) = parts
        return lambda arguments: (
            new(record_a, arguments[part_a]), new(record_b, arguments[part_b]), new(record_c, arguments[part_c])
        )  # fmt: skip
    return lambda arguments: tuple([new(record, arguments[part]) for record, part in parts])


def _below_autograd(name: str) -> Callable[[Any, tuple[Any, ...]], Any]:
    """What calls rearec::name with a set of dispatch keys and its arguments, unseen by autograd."""
    redispatch = getattr(torch.ops.rearec, name).default._handle.redispatch_boxed
    after_autograd = torch._C._after_autograd_keyset

    def compute(keyset: Any, arguments: tuple[Any, ...]) -> Any:
        with _BelowAutograd():
            return redispatch(keyset & after_autograd, *arguments)

    return compute


def _tensors(arguments: Iterable[Any]) -> Iterator[Tensor]:
    for x in arguments:
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, list | tuple):
            yield from x


def autograd(
    name: str,
    what: str,
    differentiable: Sequence[str],
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> None:
    """Gives rearec::name its derivative.

    torch.library.register_autograd would do, but what it runs in every call, for lists of tensors above all, takes
    longer than a small kernel. Here autograd sees only the tensors that are differentiable.

    Args:
        what: the public call that it belongs to, for errors.
        differentiable: the arguments that have a gradient: tensors, lists of them, or None.
        setup_context: called with ctx, the op's results, which are tensors or one list of them, and its records; the
            backend's name is in ctx.backend by then.
        backward: called with ctx and the gradient of each result, None where there is none but not all None; returns
            the gradient of each differentiable tensor. More of them may follow if they are None.
    """
    compute = _below_autograd(name)
    pack = _packer(_RECORDS[name])
    fields = [field for record in _RECORDS[name] for field in record._fields]
    positions = [fields.index(field) for field in differentiable]

    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        *_, keyset, arguments = inputs
        results = compute(keyset, arguments)
        ctx.backend = arguments[-1]
        setup_context(ctx, results, *pack(arguments))
        ctx.set_materialize_grads(False)
        return tuple(results)

    def backward_if_needed(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * len(ctx.needs_input_grad)
        return *backward(ctx, *grads), None, None

    functions = {"forward": staticmethod(forward), "backward": staticmethod(backward_if_needed)}
    derivative: Any = type(f"rearec_{name}", (torch.autograd.Function,), functions)

    def kernel(keyset: Any, *arguments: Any) -> Any:
        refuse_tangents(what, _tensors(arguments))
        tensors: list[Tensor] = []
        for i in positions:  # not by `_tensors`: a generator takes longer
            x = arguments[i]
            if isinstance(x, Tensor):
                tensors.append(x)
            elif x is not None:
                tensors += x
        if torch.is_grad_enabled() and any([x.requires_grad for x in tensors]):
            return derivative.apply(*tensors, keyset, arguments)
        return compute(keyset, arguments)

    _LIBRARY.impl(name, kernel, "Autograd", with_keyset=True)


def differentiable_once(name: str, what: str) -> None:
    """Makes differentiating the backward op `name` an error instead of a silently missing gradient."""

    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError(f"{what} can be differentiated once: its backward pass has no derivative")

    torch.library.register_autograd(f"rearec::{name}", backward, lib=_LIBRARY)


def call_backward_op(name: str, backend: str, *records: Iterable[Any]) -> Any:
    """Calls an op of `differentiable_once`, past its autograd kernel where the backward pass is not recorded."""
    op = getattr(torch.ops.rearec, name).default
    arguments = itertools.chain(*records, (backend,))
    if torch.is_grad_enabled():
        return op(*arguments)
    with _BelowAutograd():
        return op(*arguments)

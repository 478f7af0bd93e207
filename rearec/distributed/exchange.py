"""What processes tell each other: numbers, rows of a batch, and whether all of them are ready to begin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from rearec.distributed.group import Processes, processes
from rearec.distributed.lost import lost_processes
from rearec.errors import UserError

__all__ = [
    "ToldElsewhereError",
    "added",
    "agreed",
    "from_first",
    "gather_rows",
    "gather_values",
    "mean_of_all",
    "summed",
]

Value = TypeVar("Value")


class ToldElsewhereError(UserError):
    """An error that another process tells the user of."""


def summed(x: Tensor) -> Tensor:
    """The sum of the processes' tensors, of one shape, on every one of them; x itself where there is one process."""
    if processes().size > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def mean_of_all(mean: Tensor, share: float) -> Tensor:
    """The mean over the rows of all processes, on every one of them, of the mean over each one's own.

    Differentiable: every process's gradients are those in its own rows.

    share: of all rows, how many are this process's.
    """
    own = mean * share
    return own + (summed(own.detach()) - own.detach())


def added(x: NDArray[Any]) -> NDArray[Any]:
    """The same for arrays; truth values count as 0 and 1."""
    return summed(torch.from_numpy(x.astype(np.uint8) if x.dtype == np.bool_ else x)).numpy()


def gather_values(value: Value) -> list[Value]:
    """What every process gives, in the order of their numbers; plain values."""
    group = processes()
    if group.size == 1:
        return [value]
    found: list[Any] = [None] * group.size
    dist.all_gather_object(found, value)
    return found


def from_first(compute: Callable[[], Value]) -> Value:
    """What the first process computes, on every one; an error there is an error everywhere."""
    group = processes()
    if group.size == 1:
        return compute()
    with agreed():
        found = [compute() if group.is_first else None]
    dist.broadcast_object_list(found)
    return found[0]  # type: ignore[return-value]


@contextmanager
def agreed(describe: Callable[[], dict[str, Any]] = dict) -> Iterator[None]:
    """All processes come to the end of the block, and with the same values, or all leave it with an error.

    The first process raises the error to be told, whosever it is; the others `ToldElsewhereError`.

    describe: called behind the block: values by name that must be the same for all.

    Raises:
        UserError: the block has raised one in some process, or the values differ.
    """
    group = processes()
    if group.size == 1:
        yield
        return
    failure: Exception | None = None
    values: dict[str, Any] = {}
    try:
        yield
        values = describe()
    except (UserError, ValueError, OSError) as error:
        failure = error
    with lost_processes("begin again"):
        reports = gather_values((None if failure is None else str(failure), values))
    found = next((rank for rank, (message, _) in enumerate(reports) if message is not None), None)
    if found is not None:
        if found == group.rank == 0 and failure is not None:
            raise failure
        _raise_on_first(group, f"process {found}: {reports[found][0]}")
    for rank, (_, others) in enumerate(reports):
        for name, value in others.items():
            if value != (first := reports[0][1][name]):
                _raise_on_first(
                    group, f"process {rank} has another {name} than process 0: {value!r}, not {first!r}; "
                    "every process needs the same options and the same data"
                )  # fmt: skip


def _raise_on_first(group: Processes, message: str) -> None:
    raise UserError(message) if group.is_first else ToldElsewhereError(message)


def gather_rows(*tensors: Tensor) -> tuple[tuple[Tensor, ...], int]:
    """The rows [R, ...] of all processes, one after the other, of each of the tensors, and where the own ones begin.

    R may differ between processes, and be 0. Differentiable: what arrives at a process's rows from the losses of all
    processes is summed, so that a sum over processes of losses that read all rows has the gradients that it should.
    """
    group = processes()
    if group.size == 1:
        return tensors, 0
    sizes = gather_sizes(tensors[0])
    return tuple(_GatherRows.apply(x, sizes, group.rank) for x in tensors), sum(sizes[: group.rank])


def gather_sizes(x: Tensor) -> list[int]:
    """How many rows each process has."""
    sizes = torch.zeros(processes().size, dtype=torch.int64, device=x.device)
    sizes[processes().rank] = len(x)
    dist.all_reduce(sizes)
    found: list[int] = sizes.tolist()
    return found


class _GatherRows(torch.autograd.Function):
    """All rows by one exchange of as many as the largest share has; backwards the sum over processes, and the own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.sizes, ctx.rank = sizes, rank
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        first = sum(ctx.sizes[: ctx.rank])
        return gradient[first : first + ctx.sizes[ctx.rank]], None, None

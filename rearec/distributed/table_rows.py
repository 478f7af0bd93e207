"""The rows of a table that processes hold together, each some of them: which, how they are read, and how gathered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rearec.distributed.group import Processes, processes
from rearec_kernels import CatalogShard

__all__ = ["held_rows", "look_up", "rows_of_all"]

# Numbers that the first process holds of another one's rows at a time.
GATHERED = 1 << 22


def held_rows(num_rows: int, group: Processes) -> range:
    """Which rows a process holds: consecutive ones, in the order of the processes, as many as others or one more.

    Examples:
        >>> from rearec.distributed import Processes, held_rows
        >>> [held_rows(8, Processes(rank, 3)) for rank in range(3)]
        [range(0, 2), range(2, 5), range(5, 8)]
    """
    return range(group.rank * num_rows // group.size, (group.rank + 1) * num_rows // group.size)


def look_up(rows: Tensor, shard: CatalogShard) -> Tensor:
    """The table's rows of these numbers, [...] -> [..., d]; collective, with as many numbers as a process has, or none.

    Every process asks the others for each of their rows once, whatever number of times it needs it. Differentiable in
    the shard's own rows, a parameter: to their gradient is added the mean over processes of what all pass down, as
    DistributedDataParallel makes it of the gradients of parameters that all processes have. It is added in place, to
    the gradient that the same backward pass computes of a loss over the table; there has to be one.

    rows: int64, of the whole table.
    """
    found: Tensor = _LookUp.apply(shard.table, rows, shard)
    return found


class _LookUp(torch.autograd.Function):
    """One exchange of numbers and one of rows; backwards one of the rows' gradients."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, shard: CatalogShard) -> Tensor:
        asked, place = rows.unique(return_inverse=True)
        group = processes()
        ends = [held_rows(shard.num_items, Processes(rank, group.size)).stop for rank in range(group.size)]
        owner = torch.bucketize(asked, torch.tensor(ends, device=asked.device), right=True)
        counts = torch.bincount(owner, minlength=group.size)
        wanted = torch.empty_like(counts)
        dist.all_to_all_single(wanted, counts, group=shard.group)
        ctx.asked, ctx.wanted = counts.tolist(), wanted.tolist()
        numbers = _exchanged(asked, ctx.asked, ctx.wanted, shard) - shard.first_item
        found = _exchanged(table[numbers], ctx.wanted, ctx.asked, shard)
        ctx.shard, ctx.size = shard, group.size
        ctx.save_for_backward(numbers, place)
        return found[place]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None, None]:
        numbers, place = ctx.saved_tensors
        width = gradient.shape[-1]
        of_asked = gradient.new_zeros(sum(ctx.asked), width)
        of_asked.index_add_(0, place.flatten(), gradient.reshape(-1, width))
        of_own = _exchanged(of_asked.div_(ctx.size), ctx.asked, ctx.wanted, ctx.shard)

        def add(table: Tensor) -> None:
            added.remove()
            assert table.grad is not None
            table.grad.index_add_(0, numbers, of_own.to(table.grad.dtype))

        # Autograd would copy the gradient of the whole shard, the largest tensor of a step, to add even a sparse one.
        added = ctx.shard.table.register_post_accumulate_grad_hook(add)
        return None, None, None


def _exchanged(sent: Tensor, to_each: list[int], of_each: list[int], shard: CatalogShard) -> Tensor:
    """So many rows to each process, and what they have sent here, in the order of the processes."""
    received = sent.new_empty((sum(of_each), *sent.shape[1:]))
    dist.all_to_all_single(received, sent.contiguous(), of_each, to_each, group=shard.group)
    return received


def rows_of_all(own: Tensor, num_rows: int) -> Iterator[Tensor]:
    """On the first process the rows of all in their order, some at a time; the others send theirs and yield nothing.

    Every process has to go through it to the end, whatever befalls it meanwhile.

    own: [n, d], the rows that `held_rows` says of ``num_rows``, without a graph.
    """
    group = processes()
    step = max(1, GATHERED // max(1, own.shape[1]))
    if not group.is_first:
        for part in own.split(step):
            dist.send(part.contiguous(), 0)
        return
    yield from own.split(step)
    for rank in range(1, group.size):
        rows = len(held_rows(num_rows, Processes(rank, group.size)))
        for begin in range(0, rows, step):
            part = own.new_empty(min(step, rows - begin), own.shape[1])
            dist.recv(part, rank)
            yield part

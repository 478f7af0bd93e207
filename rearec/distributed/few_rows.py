"""The gradient of a table of which a step touches few rows: what is sent is these rows, not the table."""

# No `from __future__ import annotations`: DDP reads those of a hook.
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rearec.distributed.exchange import gather_rows, gather_sizes
from rearec.distributed.group import processes

__all__ = ["FewRows", "few_rows"]


@dataclass(frozen=True)
class FewRows:
    """What `few_rows` knows: the table, a parameter [N, d], of whose items the loss reads a sample.

    Examples:
        >>> import torch
        >>> from rearec.distributed import FewRows
        >>> FewRows(torch.nn.Parameter(torch.zeros(1000, 8))).pays(most_touched=40, processes=2)
        True
    """

    table: nn.Parameter

    def pays(self, most_touched: int, processes: int) -> bool:
        """Whether gathered rows are fewer bytes than the table all-reduced by a ring.

        A process sends (n - 1) P (s d + 8) bytes, of P rows with their numbers, instead of 2 (n - 1) / n N d s.
        """
        items, width = self.table.shape
        size = self.table.element_size()
        return processes * most_touched * (size * width + 8) < 2 * items * width * size

    def add_up(self, gradient: Tensor) -> bool:
        """The sum over processes of the table's gradient, in place; nothing, and False, where it does not pay."""
        touched = gradient.count_nonzero(dim=1).nonzero().squeeze(1)
        if not self.pays(max(gather_sizes(touched)), processes().size):
            return False
        (rows, values), _ = gather_rows(touched, gradient[touched])
        gradient.zero_().index_add_(0, rows, values)
        return True


def few_rows(of: FewRows, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """A communication hook of DDP: the mean over processes of the gradients of one bucket.

    Of the table, the rows that are not 0 are gathered and added up where that is less than all-reducing it, which is
    the same sum. All else is all-reduced, as DDP does.
    """
    parameters, gradients = bucket.parameters(), bucket.gradients()
    place = next((i for i, parameter in enumerate(parameters) if parameter is of.table), None)
    if place is None or not of.add_up(gradients[place]):
        dist.all_reduce(bucket.buffer())
    else:
        for gradient in (*gradients[:place], *gradients[place + 1 :]):
            dist.all_reduce(gradient)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().div_(processes().size))
    return done

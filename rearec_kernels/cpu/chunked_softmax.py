"""The softmax over items by torch's products, with one pass of csrc/cpu/losses.cpp over each chunk of logits.

User chunk by user chunk: one product writes the logits into scratch, [items, steps, users], one native pass turns them
into statistics and, in place, into their gradient, and two products take that to the gradients of rows and table. An
efficient product wants some 200 rows; the scratch stays below the size of the table's gradient, or small. Products with
the long side of the logits first are the faster ones, and users beside each other are lanes of vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.cpu.chunks import even_chunks, part_of, rounded, slice_address
from rearec_kernels.cpu.memory import empty
from rearec_kernels.cpu.softmax import (
    CrossEntropyStatistics,
    EnsembleNumbers,
    EnsembleStatistics,
    Passes,
    SoftmaxOverItems,
)
from rearec_kernels.precision import ieee_products

_CHUNK_ROWS = (192, 384)
_SCRATCH_BYTES = 64 << 20
_SMALL = 2**20  # logits that stay in the cache
_GROUP = 32  # users that the native pass takes at a time


class ChunkedSoftmax(SoftmaxOverItems):
    wants_sorted_targets: ClassVar[bool] = False

    @staticmethod
    def prepared(x: Tensor, precision: str, dense: bool = False) -> Tensor:
        x = rounded(x, precision)
        return x.contiguous() if dense else x

    def cross_entropy(
        self,
        passes: Passes,
        inverse_temperature: Tensor,
        statistics: CrossEntropyStatistics,
        coefficient: Tensor | None = None,
    ) -> None:
        of_softmax, soft = self._with_total_mass(coefficient), self.soft
        soft_losses = torch.empty(statistics.norm.shape, dtype=torch.float64, device="cpu")
        if soft is not None:
            statistics.soft_losses = soft_losses

        def run(logits: Tensor, users: slice) -> None:
            factor = 0 if of_softmax is None else slice_address(of_softmax, users)
            numbers = inverse_temperature.data_ptr(), *statistics.addresses(users), factor
            if soft is None:
                self._call(native.C.cross_entropy, logits, users, passes, numbers)
                return
            own, states = soft.of_rows(users), logits.permute(2, 1, 0)
            z = states.gather(2, own.entries())  # before gradients take their place
            self._call(native.C.cross_entropy, logits, users, passes, numbers)
            relative = (z - statistics.shift[users, :, None]) * inverse_temperature[:, None]
            soft_losses[users] = own.losses(relative, statistics.norm[users])
            if passes.gradient and coefficient is not None:
                known = coefficient[users], inverse_temperature, relative, statistics.norm[users]
                states.scatter_add_(2, own.entries(), own.logit_gradients(*known, self.precision))

        self._run(run)

    def ensemble(self, passes: Passes, statistics: EnsembleStatistics, numbers: EnsembleNumbers) -> None:
        inverse_temperature, paper, *factors = numbers

        def run(logits: Tensor, users: slice) -> None:
            arguments = inverse_temperature, paper, *statistics.addresses(users), *factors
            self._call(native.C.ensemble, logits, users, passes, arguments)

        self._run(run)

    def _call(self, kernel: Any, logits: Tensor, users: slice, passes: Passes, numbers: tuple[object, ...]) -> None:
        items, steps, count = logits.shape
        chunk = (
            logits.data_ptr(),
            items,
            (count, steps, slice_address(self.target, users)),
            0 if self.group is None else self.group.data_ptr(),
            self.precision == "bf16",
            *passes,
            torch.get_num_threads(),
        )
        kernel(chunk, numbers)

    def _run(self, run: Callable[[Tensor, slice], None]) -> None:
        """`run` sees each chunk of logits, [items, steps, users], with the users that it belongs to; the gradients, if
        any, are filled with what it left in place of the logits."""
        steps, (items, width), users = self.steps, self.table.shape, self.target.shape[0]
        chunks = list(even_chunks(users, _users_per_chunk(users, steps, items, width), _GROUP))
        scratch = empty((items * chunks[0].stop * steps + native.C.LOGITS_PADDING,))
        with ieee_products(self.rows.device):
            for chunk in chunks:
                count = chunk.stop - chunk.start
                in_chunk = slice(chunk.start * steps, chunk.stop * steps)
                rows = self.rows[in_chunk]
                if steps > 1:
                    rows = rows.view(count, steps, width).transpose(0, 1).reshape(rows.shape)
                logits = scratch[: items * steps * count].view(items, steps * count)
                torch.mm(self.table, rows.t(), out=logits)
                run(logits.view(items, steps, count), chunk)
                if self.grad_rows is not None:
                    grad_rows = self.grad_rows[in_chunk]
                    if steps == 1:
                        torch.mm(logits.t(), self.table, out=grad_rows)
                    else:
                        by_steps = torch.mm(logits.t(), self.table).view(steps, count, width)
                        grad_rows.view(count, steps, width).copy_(by_steps.transpose(0, 1))
                if self.grad_table is not None:
                    beta = int(chunk.start > 0)
                    torch.addmm(self.grad_table, logits, rows, beta=beta, out=self.grad_table)


def _users_per_chunk(users: int, steps: int, items: int, width: int) -> int:
    if users * steps * items <= _SMALL:
        return users
    rows = min(max(width, _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    budget = max(_SCRATCH_BYTES, 4 * items * width)
    return max(1, min(min(rows, budget // (4 * items)) // steps, part_of(users, steps * items)))

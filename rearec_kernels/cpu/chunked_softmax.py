"""The softmax over items by torch's products, with one pass of csrc/cpu/losses.cpp over each chunk of logits.

Row chunk by row chunk: one product writes the logits into scratch, one native pass turns them into statistics and, in
place, into their gradient, and two products take that to the gradients of rows and table. An efficient product wants
some 200 rows; the scratch stays below the size of the table's gradient, or small.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.cpu.chunks import even_chunks, padded_logits, part_of, rounded, slice_address
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
_CROSS_ENTROPY = {
    Passes(True, True): "cross_entropy",
    Passes(True, False): "cross_entropy_statistics",
    Passes(False, True): "cross_entropy_gradient",
}


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
        kernel, rounds = getattr(native.C, _CROSS_ENTROPY[passes]), self.precision == "bf16"
        of_softmax, soft = self._with_total_mass(coefficient), self.soft
        soft_losses = torch.empty(statistics.norm.shape, dtype=torch.float64, device="cpu")
        if soft is not None:
            statistics.soft_losses = soft_losses

        def run(logits: Tensor, users: slice) -> None:
            arguments = self._arguments(logits, users)
            if self.group is not None:
                native.C.mask_groups(arguments, self.group.data_ptr())
            factor = 0 if of_softmax is None else slice_address(of_softmax, users)
            numbers = inverse_temperature.data_ptr(), *statistics.addresses(users), factor, rounds
            if soft is None:
                kernel(arguments, *numbers)
                return
            own, states = soft.of_rows(users), logits.view(-1, self.steps, logits.shape[1])
            z = states.gather(2, own.entries())  # before gradients take their place
            kernel(arguments, *numbers)
            relative = (z - statistics.shift[users, :, None]) * inverse_temperature[:, None]
            soft_losses[users] = own.losses(relative, statistics.norm[users])
            if passes.gradient and coefficient is not None:
                known = coefficient[users], inverse_temperature, relative, statistics.norm[users]
                states.scatter_add_(2, own.entries(), own.logit_gradients(*known, self.precision))

        self._run(run)

    def ensemble(self, statistics: EnsembleStatistics, numbers: EnsembleNumbers, gradient: bool) -> None:
        kernel, rounds = native.C.ensemble if gradient else native.C.ensemble_statistics, self.precision == "bf16"
        inverse_temperature, paper, *factors = numbers

        def run(logits: Tensor, users: slice) -> None:
            numbers = inverse_temperature, paper, *statistics.addresses(users), *factors, rounds
            kernel(self._arguments(logits, users), *numbers)

        self._run(run)

    def _arguments(self, logits: Tensor, users: slice) -> tuple[int, ...]:
        target = slice_address(self.target, users)
        return logits.data_ptr(), *logits.shape, logits.stride(0), self.steps, target, torch.get_num_threads()

    def _run(self, run: Callable[[Tensor, slice], None]) -> None:
        """`run` sees each chunk of logits with the users that it belongs to; the gradients, if any, are filled with
        what it left in place of the logits."""
        steps, (items, width), users = self.steps, self.table.shape, self.target.shape[0]
        chunks = list(even_chunks(users, _users_per_chunk(users, steps, items, width)))
        scratch = empty((chunks[0].stop * steps, padded_logits(items)))
        with ieee_products(self.rows.device):
            for chunk in chunks:
                in_chunk = slice(chunk.start * steps, chunk.stop * steps)
                rows = self.rows[in_chunk]
                logits = scratch[: rows.shape[0], :items]
                torch.mm(rows, self.table.t(), out=logits)
                run(logits, chunk)
                if self.grad_rows is not None:
                    torch.mm(logits, self.table, out=self.grad_rows[in_chunk])
                if self.grad_table is not None:
                    beta = int(chunk.start > 0)
                    torch.addmm(self.grad_table, logits.t(), rows, beta=beta, out=self.grad_table)


def _users_per_chunk(users: int, steps: int, items: int, width: int) -> int:
    rows = min(max(width, _CHUNK_ROWS[0]), _CHUNK_ROWS[1])
    budget = max(_SCRATCH_BYTES, 4 * items * width)
    return max(1, min(min(rows, budget // (4 * items)) // steps, part_of(users, steps * items)))

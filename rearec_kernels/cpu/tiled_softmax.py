"""The softmax over items by tiles of bfloat16, on processors that multiply such: all of it by one call of csrc."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.addresses import matrix_tuple
from rearec_kernels.cpu.memory import empty
from rearec_kernels.cpu.softmax import (
    EVERYONE,
    CrossEntropyStatistics,
    EnsembleNumbers,
    EnsembleStatistics,
    Passes,
    SoftmaxOverItems,
)
from rearec_kernels.ops.soft_targets import SparseGradients, States, soft_losses
from rearec_kernels.precision import ieee_products

_PARTS = {"bf16": 1, "bf16x3": 2}  # bfloat16 numbers in place of each number


def has_kernels(precision: str) -> bool:
    """Whether this machine has kernels for `precision` that are faster than chunks of logits: they compute the logits
    twice, which pays where products of bfloat16 are quicker than those of float32."""
    return native.MULTIPLIES_BF16 and precision in _PARTS


class TiledSoftmax(SoftmaxOverItems):
    """Rows and table may be float32 or bfloat16, with dense rows."""

    wants_sorted_targets: ClassVar[bool] = True

    @staticmethod
    def prepared(x: Tensor, precision: str, dense: bool = False) -> Tensor:
        return x if x.stride(-1) == 1 else x.contiguous()

    def cross_entropy(
        self,
        passes: Passes,
        inverse_temperature: Tensor,
        statistics: CrossEntropyStatistics,
        coefficient: Tensor | None = None,
    ) -> None:
        of_softmax = self._with_total_mass(coefficient)
        factor = 0 if of_softmax is None else of_softmax.data_ptr()
        arguments = (inverse_temperature.data_ptr(), *statistics.addresses(EVERYONE), factor)
        self._call(native.TILES.cross_entropy, passes, arguments)
        if self.soft is None:
            return
        shape = (-1, self.steps, self.table.shape[1])
        states = States(self.rows.view(shape), self.table, statistics.shift, statistics.norm, inverse_temperature)
        gradients = None
        if passes.gradient and coefficient is not None:
            grad_rows = None if self.grad_rows is None else self.grad_rows.view(shape)
            gradients = SparseGradients(coefficient, grad_rows, self.grad_table)
        with ieee_products(self.rows.device):
            statistics.soft_losses = soft_losses(self.soft, states, self.precision, gradients)

    def ensemble(self, passes: Passes, statistics: EnsembleStatistics, numbers: EnsembleNumbers) -> None:
        inverse_temperature, paper, *factors = numbers
        arguments = (inverse_temperature, paper, *statistics.addresses(EVERYONE), *factors)
        self._call(native.TILES.ensemble, passes, arguments)

    def _call(self, kernel: Any, passes: Passes, arguments: tuple[object, ...]) -> None:
        softmax = (
            matrix_tuple(self.rows),
            matrix_tuple(self.table),
            _gradient_address(self.grad_rows),
            _gradient_address(self.grad_table),
            (self.target.shape[0], self.steps, self.target.data_ptr()),
            *self.table.shape,
            0 if self.group is None else self.group.data_ptr(),
            _PARTS[self.precision] == 2,
            *passes,
            torch.get_num_threads(),
        )
        scratch = empty((native.TILES.scratch_bytes(softmax) + 64,), torch.uint8)
        kernel(softmax, -(-scratch.data_ptr() // 64) * 64, arguments)


def _gradient_address(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.data_ptr(), x.stride(0))

"""Losses over a catalogue by tiles of bfloat16 (csrc/amx), on processors that have them."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels import native
from rearec_kernels.cpu.memory import empty

_PARTS = {"bf16": 1, "bf16x3": 2}


def serve(precision: str) -> bool:
    """Whether this machine has kernels for `precision`."""
    return native.AMX is not None and precision in _PARTS


def operand(x: Tensor) -> Tensor:
    """x as the kernels take it, in its own dtype: rows of numbers that follow each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


class Catalogue:
    """What csrc/amx/losses.h calls so: operands, gradients and the passes to make. Keeps the tensors alive.

    Args:
        rows: float32 or bfloat16 [users * steps, d].
        table: likewise [N, d].
        target: int64 [users], ascending.
        grad_rows, grad_table: float32, filled by a gradient pass; None where they are not needed.
        group: int32 [N]; items in the group of a row's target, itself excepted, are left out. None for no groups.
    """

    def __init__(
        self, rows: Tensor, table: Tensor, target: Tensor, steps: int, grad_rows: Tensor | None,
        grad_table: Tensor | None, precision: str, statistics: bool, gradient: bool, group: Tensor | None = None,
    ) -> None:  # fmt: skip
        self._tensors = (rows, table, target, grad_rows, grad_table, group)
        self._tuple = (
            _matrix(rows),
            _matrix(table),
            _gradient(grad_rows),
            _gradient(grad_table),
            target.shape[0],
            steps,
            *table.shape,
            target.data_ptr(),
            0 if group is None else group.data_ptr(),
            _PARTS[precision] == 2,
            statistics,
            gradient,
            torch.get_num_threads(),
        )

    def cross_entropy(self, *arguments: object) -> None:
        native.AMX.cross_entropy(self._tuple, self._scratch(), *arguments)

    def ensemble(self, *arguments: object) -> None:
        native.AMX.ensemble(self._tuple, self._scratch(), *arguments)

    def _scratch(self) -> int:
        self._memory = empty((native.AMX.scratch_bytes(self._tuple) + 64,), torch.uint8)
        return -(-self._memory.data_ptr() // 64) * 64


def _matrix(x: Tensor) -> tuple[int, bool, int]:
    return x.data_ptr(), x.dtype == torch.bfloat16, x.stride(0)


def _gradient(x: Tensor | None) -> tuple[int, int]:
    return (0, 0) if x is None else (x.data_ptr(), x.stride(0))

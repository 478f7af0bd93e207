"""Annealed cross-entropy and the contrastive loss: a softmax of rows over a table, which is never there as a whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.triton import configs
from rearec_kernels.triton.launch import Config, architecture, block_size, blocks, config, launch, parts
from rearec_kernels.triton.products import PRODUCTS, nothing, on_device, operand
from rearec_kernels.triton.softmax_kernels import softmax_merge, softmax_statistics, softmax_table_gradient
from rearec_kernels.triton.tuning import magnitude, run_best


class _Softmax(NamedTuple):
    """Rows and table of `batches` softmaxes.

    rows [row_count, width] per batch, `row_stride` apart; the table likewise. `states` rows in a row have the same
    target; without `target` (contrastive), row r's is entry r.
    """

    rows: Tensor
    table: Tensor
    target: Tensor | None
    group: Tensor | None
    inverse_temperature: Tensor
    ignore_index: int
    precision: str
    row_count: int
    item_count: int
    row_stride: int
    batches: int
    batch_stride: int

    @property
    def width(self) -> int:
        return self.rows.shape[-1]

    @property
    def arch(self) -> int:
        return architecture(self.rows.device)

    @property
    def kind(self) -> tuple[object, ...]:
        """What the choice of a config depends on."""
        sizes = magnitude(self.row_count), magnitude(self.item_count)
        return self.precision, self.width, self.batches > 1, self.group is not None, *sizes

    @property
    def table_stride(self) -> int:
        return self.table.shape[-1] * (self.batches if self.target is None else 1)

    @property
    def indices(self) -> tuple[Tensor, Tensor]:
        """target and group; what is not there is not read."""
        unread = self.inverse_temperature
        return unread if self.target is None else self.target, unread if self.group is None else self.group

    def constants(self) -> dict[str, object]:
        return {
            "WIDTH": self.width,
            "STATES": self.inverse_temperature.shape[0],
            "CONTRASTIVE": self.target is None,
        }


def _catalog_softmax(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, precision: str
) -> _Softmax:
    rows, states, width = hidden.shape
    inverse = on_device(tuple(1 / t for t in temperature.tolist()), hidden.device)
    return _Softmax(
        operand(hidden, precision), operand(weight, precision), target.contiguous(), None, inverse, ignore_index,
        precision, rows * states, weight.shape[0], width, 1, 0,
    )  # fmt: skip


def _contrast_softmax(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str
) -> _Softmax:
    rows, steps, width = noised.shape
    inverse = on_device((1 / temperature,), noised.device)
    group = None if row_group is None else row_group.contiguous()
    return _Softmax(
        operand(noised, precision), operand(clean, precision), None, group, inverse, 0, precision,
        rows, rows, steps * width, steps, width,
    )  # fmt: skip


def _statistics(softmax: _Softmax, coefficient: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Losses [rows, batches], statistics [rows, batches, 2] and, given a coefficient [rows, batches], the gradient of
    the rows in their shape."""
    candidates = configs.softmax_statistics(softmax.arch, softmax.rows.dtype, softmax.width, coefficient is not None)
    return run_best(
        "softmax_statistics", (*softmax.kind, coefficient is not None), candidates, softmax.rows.device,
        lambda chosen: _statistics_with(chosen, softmax, coefficient),
    )  # fmt: skip


def _statistics_with(chosen: Config, softmax: _Softmax, coefficient: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    rows, items, width, batches, device = (
        softmax.row_count, softmax.item_count, softmax.width, softmax.batches, softmax.rows.device,
    )  # fmt: skip
    mean = coefficient is not None
    column_tiles = blocks(width, chosen["COLUMNS"]) if mean else 1
    row_tiles = blocks(rows, chosen["ROWS"])
    item_tiles = max(1, blocks(items, chosen["ITEMS"]))
    wanted = parts(row_tiles * batches * column_tiles, item_tiles, device)
    per_part = blocks(item_tiles, wanted) * chosen["ITEMS"]
    count = blocks(items, per_part)

    largest, total, target_logit = torch.empty((3, count, batches, rows), dtype=torch.float32, device=device)
    means = torch.empty((count, batches, rows, width) if mean else 0, dtype=torch.float32, device=device)
    target, group = softmax.indices
    launch(
        softmax_statistics, (row_tiles * count, batches, column_tiles), chosen,
        softmax.rows, softmax.table, target, group, softmax.inverse_temperature, largest, total, target_logit, means,
        rows, items, per_part, softmax.ignore_index, softmax.row_stride, softmax.table_stride, softmax.batch_stride,
        **softmax.constants(), GROUPED=softmax.group is not None, MEAN=mean, PRECISION=PRODUCTS[softmax.precision],
    )  # fmt: skip

    statistics = torch.empty((rows, batches, 2), dtype=torch.float32, device=device)
    losses = torch.empty((rows, batches), dtype=torch.float32, device=device)
    gradient = torch.empty(softmax.rows.shape, dtype=torch.float32, device=device) if mean else nothing(device)
    columns = block_size(width, 16, 256) if mean else 16
    merge = config(4, 1, ROWS=1024 // columns if mean else 128, COLUMNS=columns)
    launch(
        softmax_merge, (blocks(rows, merge["ROWS"]), batches, blocks(width, columns) if mean else 1), merge,
        largest, total, target_logit, means, softmax.table, target, softmax.inverse_temperature,
        losses if coefficient is None else coefficient, statistics, losses, gradient,
        rows, count, softmax.ignore_index, softmax.table_stride, softmax.batch_stride, softmax.row_stride,
        softmax.batch_stride, **softmax.constants(), MEAN=mean,
    )  # fmt: skip
    return losses, statistics, gradient


def _table_gradient(softmax: _Softmax, coefficient: Tensor, statistics: Tensor, dtype: torch.dtype) -> Tensor:
    candidates = configs.softmax_table_gradient(softmax.arch, softmax.rows.dtype, softmax.width, softmax.batches)
    gradient = torch.empty(softmax.table.shape, dtype=dtype, device=softmax.rows.device)
    target, group = softmax.indices

    def run(chosen: Config) -> None:
        grid = blocks(softmax.item_count, chosen["ITEMS"]), softmax.batches, blocks(softmax.width, chosen["COLUMNS"])
        launch(
            softmax_table_gradient, grid, chosen,
            softmax.rows, softmax.table, target, group, softmax.inverse_temperature, coefficient, statistics, gradient,
            softmax.row_count, softmax.item_count, softmax.ignore_index, softmax.row_stride, softmax.table_stride,
            softmax.batch_stride, softmax.table_stride, softmax.batch_stride,
            **softmax.constants(), GROUPED=softmax.group is not None, PRECISION=PRODUCTS[softmax.precision],
        )  # fmt: skip

    run_best("softmax_table_gradient", softmax.kind, candidates, softmax.rows.device, run)
    return gradient


def _losses_and_gradients(
    softmax: _Softmax, coefficient: Tensor, rows_needed: bool, table_needed: bool
) -> tuple[Tensor, Tensor, Tensor]:
    losses, statistics, grad_rows = _statistics(softmax, coefficient if rows_needed else None)
    if not table_needed:
        return losses, grad_rows, nothing(losses.device)
    return losses, grad_rows, _table_gradient(softmax, coefficient, statistics, torch.float32)


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    valid = target != ignore_index
    share = valid.float() / valid.sum().clamp(min=1)
    coefficient = share[:, None] * on_device(tuple(step_weight.tolist()), hidden.device)
    softmax = _catalog_softmax(hidden, weight, target, ignore_index, temperature, precision)
    losses, grad_hidden, grad_weight = _losses_and_gradients(softmax, coefficient, hidden_needed, weight_needed)
    loss = (losses.view_as(coefficient) * coefficient).masked_fill(~valid[:, None], 0.0).sum()
    return loss, grad_hidden, grad_weight


def annealed_cross_entropy_rows(
    hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int, temperature: Tensor, step_weight: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    softmax = _catalog_softmax(hidden, weight, target, ignore_index, temperature, precision)
    losses, statistics, _ = _statistics(softmax, None)
    rows, steps = hidden.shape[:2]
    weights = on_device(tuple(step_weight.tolist()), hidden.device)
    return losses.view(rows, steps) * weights, statistics.view(rows, steps, 2)


def annealed_cross_entropy_rows_backward(
    upstream: Tensor, statistics: Tensor, hidden: Tensor, weight: Tensor, target: Tensor, ignore_index: int,
    temperature: Tensor, step_weight: Tensor, precision: str, hidden_needed: bool, weight_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    softmax = _catalog_softmax(hidden, weight, target, ignore_index, temperature, precision)
    coefficient = upstream.float() * on_device(tuple(step_weight.tolist()), hidden.device)
    return _row_gradients(softmax, coefficient, statistics, hidden, weight, hidden_needed, weight_needed)


def reasoning_info_nce(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str,
    noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    softmax = _contrast_softmax(noised, clean, row_group, temperature, precision)
    count = max(1, noised.shape[0] * noised.shape[1])
    coefficient = torch.full(noised.shape[:2], 1 / count, dtype=torch.float32, device=noised.device)
    losses, grad_noised, grad_clean = _losses_and_gradients(softmax, coefficient, noised_needed, clean_needed)
    return losses.sum() / count, grad_noised, grad_clean


def reasoning_info_nce_rows(
    noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float, precision: str
) -> tuple[Tensor, Tensor]:
    losses, statistics, _ = _statistics(_contrast_softmax(noised, clean, row_group, temperature, precision), None)
    return losses, statistics


def reasoning_info_nce_rows_backward(
    upstream: Tensor, statistics: Tensor, noised: Tensor, clean: Tensor, row_group: Tensor | None, temperature: float,
    precision: str, noised_needed: bool, clean_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    softmax = _contrast_softmax(noised, clean, row_group, temperature, precision)
    return _row_gradients(softmax, upstream.float(), statistics, noised, clean, noised_needed, clean_needed)


def _row_gradients(
    softmax: _Softmax, coefficient: Tensor, statistics: Tensor, first: Tensor, second: Tensor,
    first_needed: bool, second_needed: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradient of the rows comes with the statistics, computed again: that takes one product less."""
    coefficient = coefficient.contiguous()
    grad_rows = grad_table = nothing(first.device)
    if first_needed:
        grad_rows = _statistics(softmax, coefficient)[2]
    if second_needed:
        grad_table = _table_gradient(softmax, coefficient, statistics.contiguous(), second.dtype)
    return grad_rows.to(first.dtype), grad_table.to(second.dtype)


def scaled_gradients(
    upstream: Tensor, first: Tensor, second: Tensor, first_gradient: Tensor, second_gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of a scalar loss times what comes from above, out of place: the backward pass may run again."""
    return (first_gradient * upstream).to(first.dtype), (second_gradient * upstream).to(second.dtype)

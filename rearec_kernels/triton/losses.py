"""The losses: annealed cross-entropy and the contrastive loss as a softmax of rows over a table, whose logits are never
there as a whole; the ensemble loss by ensemble.py."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import (
    AnnealedCrossEntropy,
    EnsembleReasoning,
    EnsembleSums,
    InfoNCE,
    Needed,
    RowGradients,
)
from rearec_kernels.ops.losses import scaled_gradients as scaled_gradients  # the op as it is
from rearec_kernels.ops.soft_targets import SoftTarget, SparseGradients, States, soft_losses, soft_target
from rearec_kernels.triton import configs
from rearec_kernels.triton.ensemble import Ensemble
from rearec_kernels.triton.launch import (
    Config,
    architecture,
    block_size,
    blocks,
    config,
    launch,
    no_gradient,
    on_device,
    parts,
)
from rearec_kernels.triton.products import PRODUCTS, plain_products, rounded
from rearec_kernels.triton.softmax_kernels import softmax_merge, softmax_statistics, softmax_table_gradient
from rearec_kernels.triton.tuning import magnitude, run_best

_NO_TARGET, _IGNORED = -1, -2  # what the kernels get as targets where there are soft ones


class _Softmax(NamedTuple):
    """Rows and table of `batches` softmaxes.

    rows [row_count, width] per batch, `row_stride` apart; the table likewise. `states` rows in a row have the same
    target; without `target` (contrastive), row r's is entry `first_entry` + r.
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
    first_entry: int = 0

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


def _catalog_softmax(loss: AnnealedCrossEntropy) -> _Softmax:
    rows, states, width = loss.hidden.shape
    inverse = on_device(tuple(1 / t for t in loss.temperature.tolist()), loss.hidden.device)
    target, ignore_index = loss.target.contiguous(), loss.ignore_index
    if loss.soft_items is not None:
        target, ignore_index = torch.where(target == ignore_index, _IGNORED, _NO_TARGET), _IGNORED
    return _Softmax(
        rounded(loss.hidden, loss.precision), rounded(loss.weight, loss.precision), target, None, inverse, ignore_index,
        loss.precision, rows * states, loss.weight.shape[0], width, 1, 0,
    )  # fmt: skip


def _contrast_softmax(loss: InfoNCE) -> _Softmax:
    rows, steps, width = loss.noised.shape
    inverse = on_device((1 / loss.temperature,), loss.noised.device)
    group = None if loss.row_group is None else loss.row_group.contiguous()
    return _Softmax(
        rounded(loss.noised, loss.precision), rounded(loss.clean, loss.precision), None, group, inverse, 0,
        loss.precision, rows, loss.clean.shape[0], steps * width, steps, width, loss.first_key,
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
        rows, items, per_part, softmax.ignore_index, softmax.first_entry, softmax.row_stride, softmax.table_stride,
        softmax.batch_stride,
        **softmax.constants(), GROUPED=softmax.group is not None, MEAN=mean, PRECISION=PRODUCTS[softmax.precision],
    )  # fmt: skip

    statistics = torch.empty((rows, batches, 2), dtype=torch.float32, device=device)
    losses = torch.empty((rows, batches), dtype=torch.float32, device=device)
    gradient = torch.empty(softmax.rows.shape, dtype=torch.float32, device=device) if mean else no_gradient(device)
    columns = block_size(width, 16, 256) if mean else 16
    merge = config(4, 1, ROWS=1024 // columns if mean else 128, COLUMNS=columns)
    launch(
        softmax_merge, (blocks(rows, merge["ROWS"]), batches, blocks(width, columns) if mean else 1), merge,
        largest, total, target_logit, means, softmax.table, target, softmax.inverse_temperature,
        losses if coefficient is None else coefficient, statistics, losses, gradient,
        rows, count, softmax.ignore_index, softmax.first_entry, softmax.table_stride, softmax.batch_stride,
        softmax.row_stride, softmax.batch_stride, **softmax.constants(), MEAN=mean,
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
            softmax.row_count, softmax.item_count, softmax.ignore_index, softmax.first_entry, softmax.row_stride,
            softmax.table_stride, softmax.batch_stride, softmax.table_stride, softmax.batch_stride,
            **softmax.constants(), GROUPED=softmax.group is not None, PRECISION=PRODUCTS[softmax.precision],
        )  # fmt: skip

    run_best("softmax_table_gradient", softmax.kind, candidates, softmax.rows.device, run)
    return gradient


def _losses_and_gradients(softmax: _Softmax, coefficient: Tensor, needed: Needed) -> tuple[Tensor, ...]:
    """Losses, statistics, and the gradients of rows and table."""
    losses, statistics, grad_rows = _statistics(softmax, coefficient if needed.first else None)
    if not needed.second:
        return losses, statistics, grad_rows, no_gradient(losses.device)
    return losses, statistics, grad_rows, _table_gradient(softmax, coefficient, statistics, torch.float32)


def annealed_cross_entropy(loss: AnnealedCrossEntropy, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    valid = loss.target != loss.ignore_index
    share = valid.float() / valid.sum().clamp(min=1)
    coefficient = share[:, None] * _step_weights(loss)
    softmax, soft = _catalog_softmax(loss), soft_target(loss)
    of_softmax = coefficient if soft is None else coefficient * soft.total
    losses, statistics, grad_hidden, grad_weight = _losses_and_gradients(softmax, of_softmax, needed)
    if soft is not None:
        gradients = _soft_gradients(coefficient, needed, grad_hidden, grad_weight)
        losses = _soft_losses(loss, softmax, soft, statistics, gradients)
    mean = (losses.view_as(coefficient) * coefficient).masked_fill(~valid[:, None], 0.0).sum()
    return mean, grad_hidden, grad_weight


def annealed_cross_entropy_rows(loss: AnnealedCrossEntropy) -> tuple[Tensor, Tensor]:
    softmax, soft = _catalog_softmax(loss), soft_target(loss)
    losses, statistics, _ = _statistics(softmax, None)
    if soft is not None:
        losses = _soft_losses(loss, softmax, soft, statistics)
    rows, steps = loss.hidden.shape[:2]
    return losses.view(rows, steps) * _step_weights(loss), statistics.view(rows, steps, 2)


def annealed_cross_entropy_rows_backward(
    known: RowGradients, loss: AnnealedCrossEntropy, needed: Needed
) -> tuple[Tensor, Tensor]:
    coefficient = known.upstream.float() * _step_weights(loss)
    softmax, soft = _catalog_softmax(loss), soft_target(loss)
    if soft is None:
        grad_hidden, grad_weight = _row_gradients(softmax, coefficient, known.statistics, loss.weight.dtype, needed)
    else:
        of_softmax = coefficient * soft.total
        is_slice = loss.total_mass is not None
        grad_hidden, grad_weight = _row_gradients(
            softmax, of_softmax, known.statistics, torch.float32, needed, is_slice
        )
        gradients = _soft_gradients(coefficient, needed, grad_hidden, grad_weight)
        _soft_losses(loss, softmax, soft, known.statistics, gradients)
    return grad_hidden.to(loss.hidden.dtype), grad_weight.to(loss.weight.dtype)


def _soft_gradients(coefficient: Tensor, needed: Needed, grad_hidden: Tensor, grad_weight: Tensor) -> SparseGradients:
    # That of the rows is a mean of items by exponentials that are exact where they are largest.
    return SparseGradients(
        coefficient, grad_hidden if needed.first else None, grad_weight if needed.second else None, rows_exact=True
    )


def _soft_losses(
    loss: AnnealedCrossEntropy,
    softmax: _Softmax,
    soft: SoftTarget,
    statistics: Tensor,
    gradients: SparseGradients | None = None,
) -> Tensor:
    """The losses [R, T] and, in place, what the gradients have besides what the kernels computed without targets."""
    # Ignored rows are there, and what they hold has to come to nothing, whatever it is.
    ignored = (loss.target == loss.ignore_index)[:, None, None]
    soft = soft._replace(mass=soft.mass.masked_fill(ignored, 0.0), total=soft.total.masked_fill(ignored[..., 0], 0.0))
    largest, total = statistics.view(*loss.hidden.shape[:2], 2).unbind(-1)
    states = States(softmax.rows.masked_fill(ignored, 0.0), softmax.table, largest, total, softmax.inverse_temperature)
    with plain_products(softmax.rows.device, loss.precision):
        return soft_losses(soft, states, loss.precision, gradients).float()


def _step_weights(loss: AnnealedCrossEntropy) -> Tensor:
    return on_device(tuple(loss.step_weight.tolist()), loss.hidden.device)


def ensemble_reasoning_loss(loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    ensemble = Ensemble(loss)
    cross_entropy, kl = (x.sum() / ensemble.count for x in ensemble.statistics())
    kl = kl / ensemble.pairs
    gradients = ensemble.gradients(needed)
    return cross_entropy - loss.kl_weight * kl, cross_entropy, kl, *gradients


def ensemble_sums(loss: EnsembleReasoning) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    ensemble = Ensemble(loss)
    cross_entropy, _ = ensemble.statistics()
    return ensemble.sums(cross_entropy)


def ensemble_gradients(known: EnsembleSums, loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor]:
    return Ensemble(loss, known).gradients(needed)


def reasoning_info_nce(loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    rows, steps, _ = loss.noised.shape
    count = max(1, rows * steps)
    coefficient = torch.full((rows, steps), 1 / count, dtype=torch.float32, device=loss.noised.device)
    losses, _, grad_noised, grad_clean = _losses_and_gradients(_contrast_softmax(loss), coefficient, needed)
    return losses.sum() / count, grad_noised, grad_clean


def reasoning_info_nce_rows(loss: InfoNCE) -> tuple[Tensor, Tensor]:
    losses, statistics, _ = _statistics(_contrast_softmax(loss), None)
    return losses, statistics


def reasoning_info_nce_rows_backward(known: RowGradients, loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor]:
    grad_noised, grad_clean = _row_gradients(
        _contrast_softmax(loss), known.upstream.float(), known.statistics, loss.clean.dtype, needed
    )
    return grad_noised.to(loss.noised.dtype), grad_clean


def _row_gradients(
    softmax: _Softmax,
    coefficient: Tensor,
    statistics: Tensor,
    table_dtype: torch.dtype,
    needed: Needed,
    is_slice: bool = False,
) -> tuple[Tensor, Tensor]:
    """The gradient of the rows comes with the statistics, computed again: that takes one product less. `is_slice`
    says that those given are of a larger table; then no row has a target here."""
    coefficient = coefficient.contiguous()
    grad_rows = grad_table = no_gradient(coefficient.device)
    if needed.first:
        _, own, grad_rows = _statistics(softmax, coefficient)
        if is_slice:
            grad_rows *= _share(softmax, own, statistics).view(*grad_rows.shape[:-1], 1)
    if needed.second:
        grad_table = _table_gradient(softmax, coefficient, statistics.contiguous(), table_dtype)
    return grad_rows, grad_table.to(table_dtype)


def _share(softmax: _Softmax, own: Tensor, statistics: Tensor) -> Tensor:
    """Of each row, the part of the probabilities of a larger table that is in this one; 0 in ignored rows."""
    largest, total = statistics.view(-1, softmax.inverse_temperature.shape[0], 2).unbind(-1)
    own_largest, own_total = own.view(-1, softmax.inverse_temperature.shape[0], 2).unbind(-1)
    share = ((own_largest - largest) * softmax.inverse_temperature).exp() * own_total / total
    return torch.where(share > 0, share, 0.0)

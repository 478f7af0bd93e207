"""The native losses, each as a softmax over the items of a table: the catalog, or the other rows of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.cpu import tiled_softmax
from rearec_kernels.cpu.chunked_softmax import ChunkedSoftmax
from rearec_kernels.cpu.memory import empty
from rearec_kernels.cpu.softmax import (
    CrossEntropyStatistics,
    EnsembleNumbers,
    EnsembleStatistics,
    Passes,
    SoftmaxOverItems,
)
from rearec_kernels.ops.arguments import (
    AnnealedCrossEntropy,
    EnsembleReasoning,
    EnsembleSums,
    InfoNCE,
    Needed,
    RowGradients,
    ScaledGradients,
)
from rearec_kernels.ops.ensemble import ensemble_pairs, ensemble_terms
from rearec_kernels.ops.soft_targets import soft_target

_NO_GRADIENTS = Needed(False, False)


def _softmax_kind(precision: str) -> tuple[type[SoftmaxOverItems], str]:
    """The kind, and the precision of its products: float32 in place of three products that nothing makes quicker."""
    if tiled_softmax.has_kernels(precision):
        return tiled_softmax.TiledSoftmax, precision
    return ChunkedSoftmax, "fp32" if precision == "bf16x3" else precision


def _or_empty(gradient: Tensor | None) -> Tensor:
    """An op returns a tensor also in place of a gradient that is not needed."""
    return torch.empty(0, dtype=torch.float32, device="cpu") if gradient is None else gradient


class _CountedRows:
    """The rows of a loss over the catalog that are not ignored, and where their gradients go."""

    def __init__(self, loss: AnnealedCrossEntropy | EnsembleReasoning, needed: Needed) -> None:
        kind, precision = _softmax_kind(loss.precision)
        counted = loss.target != loss.ignore_index
        self.index = counted.nonzero().squeeze(1)
        soft_items = loss.soft_items if isinstance(loss, AnnealedCrossEntropy) else None
        sorts = kind.wants_sorted_targets and soft_items is None
        if sorts:
            self.index = self.index[loss.target[self.index].argsort()]
        self._are_all = not sorts and bool(counted.all())
        hidden, table = (kind.prepared(x, precision) for x in (loss.hidden, loss.weight))
        self._shape = hidden.shape
        rows = (hidden if self._are_all else hidden[self.index]).reshape(-1, hidden.shape[2]).contiguous()
        self._grad_rows = empty(rows.shape) if needed.first else None
        self._grad_table = empty(table.shape) if needed.second else None
        target = loss.target[self.index].long()
        soft = soft_target(loss, self.index) if isinstance(loss, AnnealedCrossEntropy) else None
        if soft is not None:
            target = target.fill_(-1)
        self.users, self.steps = target.shape[0], hidden.shape[1]
        self.softmax = kind(rows, table, target, self.steps, self._grad_rows, self._grad_table, precision, soft=soft)

    def cross_entropy(
        self, passes: Passes, temperature: Tensor, coefficient: Tensor | None = None, known: Tensor | None = None
    ) -> CrossEntropyStatistics:
        """Of [users, T]; `known` statistics are those of the users."""
        statistics = CrossEntropyStatistics(self.users, self.steps, known)
        if self.users > 0:
            self.softmax.cross_entropy(passes, temperature.reciprocal().float(), statistics, coefficient)
        return statistics

    def ensemble(self, passes: Passes, loss: EnsembleReasoning, known: EnsembleSums | None = None) -> EnsembleSums:
        """Those of the users; `known` are theirs too."""
        statistics, users = EnsembleStatistics(self.users, self.steps, known), max(1, self.users)
        factors = 1 / users, -loss.kl_weight / (users * ensemble_pairs(loss))
        numbers = EnsembleNumbers(1 / loss.temperature, loss.kl_form == "paper", *factors)
        if self.users > 0:
            self.softmax.ensemble(passes, statistics, numbers)
        return statistics.sums

    def scatter(self, x: Tensor) -> Tensor:
        """[users, ...] -> [R, ...], 0 in ignored rows."""
        return x if self._are_all else x.new_zeros((self._shape[0], *x.shape[1:])).index_copy_(0, self.index, x)

    def gradients(self) -> tuple[Tensor, Tensor]:
        if self.users == 0 and self._grad_table is not None:
            self._grad_table.zero_()
        grad_rows = self._grad_rows
        grad_hidden = None if grad_rows is None else self.scatter(grad_rows.view(-1, *self._shape[1:]))
        return _or_empty(grad_hidden), _or_empty(self._grad_table)


def annealed_cross_entropy(loss: AnnealedCrossEntropy, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    counted = _CountedRows(loss, needed)
    users = max(1, counted.users)
    coefficient = (loss.step_weight / users).float().expand(counted.users, -1).contiguous()
    statistics = counted.cross_entropy(Passes(True, any(needed)), loss.temperature, coefficient)
    mean = (statistics.losses().sum(0) * loss.step_weight).sum() / users
    return mean.float(), *counted.gradients()


def annealed_cross_entropy_rows(loss: AnnealedCrossEntropy) -> tuple[Tensor, Tensor]:
    counted = _CountedRows(loss, _NO_GRADIENTS)
    statistics = counted.cross_entropy(Passes(True, False), loss.temperature)
    return counted.scatter((statistics.losses() * loss.step_weight).float()), counted.scatter(statistics.kept())


def annealed_cross_entropy_rows_backward(
    known: RowGradients, loss: AnnealedCrossEntropy, needed: Needed
) -> tuple[Tensor, Tensor]:
    counted = _CountedRows(loss, needed)
    coefficient = (known.upstream[counted.index] * loss.step_weight).float().contiguous()
    counted.cross_entropy(Passes(False, True), loss.temperature, coefficient, known.statistics[counted.index])
    grad_hidden, grad_weight = counted.gradients()
    return grad_hidden.to(loss.hidden.dtype), grad_weight.to(loss.weight.dtype)


def ensemble_reasoning_loss(loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    counted = _CountedRows(loss, needed)
    sums = counted.ensemble(Passes(True, any(needed)), loss)
    cross_entropy, kl = (x.sum() / max(1, counted.users) for x in ensemble_terms(sums, loss))
    total = cross_entropy - loss.kl_weight * kl
    return total.float(), cross_entropy.float(), kl.float(), *counted.gradients()


def ensemble_sums(loss: EnsembleReasoning) -> tuple[Tensor, ...]:
    counted = _CountedRows(loss, _NO_GRADIENTS)
    sums = counted.ensemble(Passes(True, False), loss)
    return tuple(counted.scatter(x).clone() for x in sums)  # the first two are views of one tensor


def ensemble_gradients(known: EnsembleSums, loss: EnsembleReasoning, needed: Needed) -> tuple[Tensor, Tensor]:
    counted = _CountedRows(loss, needed)
    counted.ensemble(Passes(False, True), loss, EnsembleSums(*(x[counted.index] for x in known)))
    return counted.gradients()


class _Contrast:
    """Per step a cross-entropy of the noised states with the clean states as table and the row's own as target."""

    def __init__(self, loss: InfoNCE, needed: Needed) -> None:
        self._kind, self._precision = _softmax_kind(loss.precision)
        self._noised, self._clean = (
            self._kind.prepared(x, self._precision, dense=True) for x in (loss.noised, loss.clean)
        )
        self._grad_noised = empty(loss.noised.shape) if needed.first else None
        self._grad_clean = empty(loss.clean.shape) if needed.second else None
        self._inverse_temperature = torch.full((1,), 1 / loss.temperature, dtype=torch.float32, device="cpu")
        self._first_key = loss.first_key
        self._group: Tensor | None = None
        if loss.row_group is not None:
            # any ids become small ones
            self._group = loss.row_group.unique(return_inverse=True)[1].int()

    def steps(
        self, passes: Passes, coefficient: Tensor | None = None, known: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The passes over all steps; losses [R, T] in float64 and statistics [R, T, 2]."""
        rows, steps, _ = self._noised.shape
        if rows == 0 and self._grad_clean is not None:
            self._grad_clean.zero_()
        losses = torch.zeros((rows, steps), dtype=torch.float64, device="cpu")
        kept = torch.zeros((rows, steps, 2), dtype=torch.float32, device="cpu")
        target = torch.arange(self._first_key, self._first_key + rows, device="cpu")
        for t in range(steps if rows > 0 else 0):
            grad_noised, grad_clean = (None if g is None else g[:, t] for g in (self._grad_noised, self._grad_clean))
            softmax = self._kind(
                self._noised[:, t], self._clean[:, t], target, 1, grad_noised, grad_clean, self._precision, self._group
            )
            statistics = CrossEntropyStatistics(rows, 1, None if known is None else known[:, t : t + 1])
            factor = None if coefficient is None else coefficient[:, t].contiguous()
            softmax.cross_entropy(passes, self._inverse_temperature, statistics, factor)
            losses[:, t], kept[:, t] = statistics.losses().squeeze(1), statistics.kept().squeeze(1)
        return losses, kept

    def gradients(self) -> tuple[Tensor, Tensor]:
        return _or_empty(self._grad_noised), _or_empty(self._grad_clean)


def reasoning_info_nce(loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor, Tensor]:
    contrast = _Contrast(loss, needed)
    rows, steps, _ = loss.noised.shape
    count = max(1, rows * steps)
    coefficient = torch.full((rows, steps), 1 / count, dtype=torch.float32, device="cpu")
    losses, _ = contrast.steps(Passes(True, any(needed)), coefficient)
    return (losses.sum() / count).float(), *contrast.gradients()


def reasoning_info_nce_rows(loss: InfoNCE) -> tuple[Tensor, Tensor]:
    losses, statistics = _Contrast(loss, _NO_GRADIENTS).steps(Passes(True, False))
    return losses.float(), statistics


def reasoning_info_nce_rows_backward(known: RowGradients, loss: InfoNCE, needed: Needed) -> tuple[Tensor, Tensor]:
    contrast = _Contrast(loss, needed)
    contrast.steps(Passes(False, True), known.upstream.float(), known.statistics)
    grad_noised, grad_clean = contrast.gradients()
    return grad_noised.to(loss.noised.dtype), grad_clean.to(loss.clean.dtype)


def scaled_gradients(args: ScaledGradients) -> tuple[Tensor, Tensor]:
    def scaled(gradient: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.mul(gradient, args.upstream, out=empty(gradient.shape, gradient.dtype)).to(dtype)

    return scaled(args.first_gradient, args.first.dtype), scaled(args.second_gradient, args.second.dtype)

"""Losses over a sharded catalogue: statistics of all rows on the own slice, merged, then gradients from the merged.

Relative to a slice's largest logit every number is as small as in an unsharded pass; what is added over the ranks are
sums of terms that are at least 0, so that nothing cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable, but for what that imports at once
from torch.autograd.function import once_differentiable

from rearec_kernels.arguments import refuse_tangents
from rearec_kernels.ops.arguments import AnnealedCrossEntropy, EnsembleReasoning, EnsembleSums, Needed
from rearec_kernels.ops.ensemble import ensemble_terms
from rearec_kernels.ops.losses import keep_gradients, scalar_loss_gradient
from rearec_kernels.precision import accumulate_dtype
from rearec_kernels.sharded.meeting import Meeting
from rearec_kernels.shards import CatalogShard

_IGNORED, _ELSEWHERE = -100, -1  # in place of targets


@_disable_dynamo
def annealed_cross_entropy(
    shard: CatalogShard, loss: AnnealedCrossEntropy, needed: tuple[bool, bool], reduction: str, backend: str
) -> Tensor:
    """The loss of this rank's arguments, whose items are those of the whole catalogue."""
    op = "annealed_cross_entropy"
    refuse_tangents(op, (loss.hidden, loss.weight))
    mass = loss.soft_mass
    facts = {
        **_same(loss),
        "step_weight": loss.step_weight.tolist(),
        "reduction": reduction,
        "the form of soft_target": None if mass is None else (mass.dtype, mass.dim(), mass.shape[-1]),
    }
    if reduction == "none":
        facts["whether there is a backward pass"] = any(needed)
    meeting = Meeting(op, shard, loss.hidden.shape[0], facts, needed)
    annealed = _Annealed(meeting, shard, loss, backend)
    if reduction == "none":
        return _PerRow.apply(loss.hidden, loss.weight, annealed)
    value, *_ = _Mean.apply(loss.hidden, loss.weight, annealed.mean, Needed(*needed), backend)
    return value


@_disable_dynamo
def ensemble_reasoning_loss(
    shard: CatalogShard, loss: EnsembleReasoning, needed: tuple[bool, bool], backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, cross-entropy and divergence."""
    op = "ensemble_reasoning_loss"
    refuse_tangents(op, (loss.hidden, loss.weight))
    facts = {**_same(loss), "kl_weight": loss.kl_weight, "kl_form": loss.kl_form}
    meeting = Meeting(op, shard, loss.hidden.shape[0], facts, needed)
    ensemble = _Ensemble(meeting, shard, loss, backend)
    value, cross_entropy, kl = _Mean.apply(loss.hidden, loss.weight, ensemble.mean, Needed(*needed), backend)
    return value, cross_entropy, kl


def _same(loss: AnnealedCrossEntropy | EnsembleReasoning) -> dict[str, object]:
    temperature = loss.temperature
    return {
        "T and d of hidden": tuple(loss.hidden.shape[1:]),
        "the dtype of hidden": loss.hidden.dtype,
        "the dtype of weight": loss.weight.dtype,
        "temperature": temperature.tolist() if isinstance(temperature, Tensor) else temperature,
        "precision": loss.precision,
    }


class _Mean(torch.autograd.Function):
    """A scalar loss, its terms if it has some, and its gradients, as `compute` gives them for which are needed."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        compute: Callable[[], tuple[Tensor, ...]],
        needed: Needed,
        backend: str,
    ) -> tuple[Tensor, ...]:
        *scalars, grad_hidden, grad_weight = compute()
        ctx.backend = backend
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*scalars[1:])
        keep_gradients(ctx, (hidden, weight, grad_hidden, grad_weight), needed)
        return tuple(scalars)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> Any:
        gradients = (None, None) if upstream is None else scalar_loss_gradient(ctx, upstream)
        return *gradients, None, None, None


class _PerRow(torch.autograd.Function):
    """The losses of this rank's rows. Every rank has to take part in the backward pass."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, annealed: _Annealed) -> Tensor:
        losses, statistics = annealed.losses()
        ctx.save_for_backward(hidden, weight, statistics)
        ctx.annealed = annealed
        return annealed.meeting.own(losses).to(annealed.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        *_, statistics = ctx.saved_tensors  # all of them: an error if one was written since
        annealed: _Annealed = ctx.annealed
        gradients = annealed.gradients(annealed.meeting.gather(upstream), statistics)
        needed = ctx.needs_input_grad[:2]
        dtypes = annealed.given.hidden.dtype, annealed.given.weight.dtype
        given = zip(gradients, needed, dtypes, strict=True)
        return *(g.to(dtype) if need else None for g, need, dtype in given), None


class _Annealed:
    """One call of the annealed cross-entropy; hard targets are soft ones of mass 1."""

    def __init__(self, meeting: Meeting, shard: CatalogShard, loss: AnnealedCrossEntropy, backend: str) -> None:
        self.meeting, self.given, self.backend = meeting, loss, backend
        self.dtype = accumulate_dtype(loss.hidden, loss.weight)
        items = loss.target[:, None] if loss.soft_items is None else loss.soft_items
        ignored = loss.target == loss.ignore_index
        ignored, items = meeting.gather(torch.cat([ignored[:, None], items], 1).long()).tensor_split([1], 1)
        self.valid = ignored[:, 0] == 0
        mass = loss.soft_mass
        mass = torch.ones_like(items, dtype=self.dtype) if mass is None else meeting.gather(mass)
        mass = mass[:, None] if mass.dim() == 2 else mass
        here = _local(shard, items, self.valid)
        self.mass_here = _total(mass, here)
        self.total_mass = _total(mass, items).expand(-1, loss.hidden.shape[1]).to(self.dtype)
        self.everyone = AnnealedCrossEntropy(
            meeting.gather(loss.hidden), loss.weight.detach(), torch.where(self.valid, 0, _IGNORED), _IGNORED,
            loss.temperature, loss.step_weight, loss.precision, here, mass, self.total_mass,
        )  # fmt: skip

    def losses(self) -> tuple[Tensor, Tensor]:
        """Of all rows, float64 [R, T], and their merged statistics [R, T, 2]."""
        losses, statistics = torch.ops.rearec.annealed_cross_entropy_rows(*self.everyone, self.backend)
        ignored = ~self.valid[:, None]
        own_largest, own_total = (
            x.masked_fill(ignored, fill) for x, fill in zip(statistics.unbind(-1), (0, 1), strict=True)
        )
        largest = self.meeting.maximum(own_largest.clone())
        temperature, step_weight = (x.to(largest.device) for x in (self.given.temperature, self.given.step_weight))
        relative = (own_largest - largest).double() / temperature
        # Of the losses sum of mass (logsumexp - z), what they have besides the logarithms of the sums: mass (largest -
        # z), for the items that are here.
        rest = losses - step_weight * self.mass_here * (own_total.double().log() + relative)
        rest = torch.where(self.mass_here > 0, rest, 0.0).masked_fill(ignored, 0.0)
        total, rest = self.meeting.sum(torch.stack([own_total * relative.exp(), rest]).to(self.dtype))
        losses = rest + step_weight * self.total_mass * total.double().log()
        return losses.masked_fill(ignored, 0.0), torch.stack([largest, total], -1)

    def gradients(self, upstream: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """For the losses of all rows: of this rank's hidden and weight, [0] where no rank needs it."""
        needs_hidden, needs_weight = self.meeting.needed
        # Not rounded before the ranks' parts are added.
        everyone = self.everyone._replace(hidden=self.everyone.hidden.to(self.dtype))
        grad_hidden, grad_weight = torch.ops.rearec.annealed_cross_entropy_rows_backward(
            upstream.contiguous(), statistics, *everyone, needs_hidden, needs_weight, self.backend
        )
        return self.meeting.sum_of_own(grad_hidden) if needs_hidden else grad_hidden, grad_weight

    def mean(self) -> tuple[Tensor, ...]:
        """The mean over the rows that are not ignored, and its gradients."""
        losses, statistics = self.losses()
        share = self.valid[:, None].double() / self.valid.sum().clamp(min=1)
        upstream = share.to(self.dtype).expand(losses.shape)
        return (losses * share).sum().to(self.dtype), *self.gradients(upstream, statistics)


class _Ensemble:
    """One call of the ensemble loss."""

    def __init__(self, meeting: Meeting, shard: CatalogShard, loss: EnsembleReasoning, backend: str) -> None:
        self.meeting, self.backend = meeting, backend
        self.dtype = accumulate_dtype(loss.hidden, loss.weight)
        target = loss.target.long().masked_fill(loss.target == loss.ignore_index, _IGNORED)
        target = meeting.gather(target[:, None])[:, 0]
        self.valid = target != _IGNORED
        target = _local(shard, target[:, None], self.valid)[:, 0]
        self.here = target != _ELSEWHERE
        self.everyone = loss._replace(
            hidden=meeting.gather(loss.hidden),
            weight=loss.weight.detach(),
            target=target.masked_fill(~self.valid, _IGNORED),
            ignore_index=_IGNORED,
        )

    def sums(self) -> EnsembleSums:
        """Of all rows over all items."""
        found = EnsembleSums(*torch.ops.rearec.ensemble_sums(*self.everyone, self.backend))
        own = EnsembleSums(*(
            x.masked_fill(~self.valid.view(-1, *[1] * (x.dim() - 1)), fill)
            for x, fill in zip(found, (0, 1, 0, 0), strict=True)
        ))  # fmt: skip
        largest = self.meeting.maximum(own.largest.clone())
        relative = (own.largest - largest).double() / self.everyone.temperature
        factor, steps = relative.exp(), own.spread.shape[1]
        target_logit = torch.where(self.here, own.target_logit + relative[:, -1], 0.0)
        parts = [own.total * factor, own.spread * factor[:, :steps], target_logit[:, None]]
        sums = self.meeting.sum(torch.cat(parts, 1).to(self.dtype))
        total, spread, target_logit = sums.tensor_split([steps + 1, 2 * steps + 1], 1)
        return EnsembleSums(largest, total.contiguous(), spread.contiguous(), target_logit[:, 0].contiguous())

    def mean(self) -> tuple[Tensor, ...]:
        """Loss, cross-entropy and divergence, and the gradients of the loss."""
        sums, count = self.sums(), self.valid.sum().clamp(min=1)
        terms = ensemble_terms(sums, self.everyone)
        cross_entropy, kl = (x.masked_fill(~self.valid, 0.0).sum() / count for x in terms)
        needs_hidden, needs_weight = self.meeting.needed
        grad_hidden, grad_weight = torch.ops.rearec.ensemble_gradients(
            *sums, *self.everyone, needs_hidden, needs_weight, self.backend
        )
        grad_hidden = self.meeting.sum_of_own(grad_hidden) if needs_hidden else grad_hidden
        scalars = cross_entropy - self.everyone.kl_weight * kl, cross_entropy, kl
        return *(x.to(self.dtype) for x in scalars), grad_hidden, grad_weight


def _local(shard: CatalogShard, items: Tensor, valid: Tensor) -> Tensor:
    """[R, M], ids of the whole catalogue -> rows of this slice, -1 for none and in ignored rows."""
    items = items - shard.first_item
    return items.masked_fill((items < 0) | (items >= shard.table.shape[0]) | ~valid[:, None], _ELSEWHERE)


def _total(mass: Tensor, items: Tensor) -> Tensor:
    """float64 [R, T or 1]: of the items that are there."""
    return mass.double().masked_fill((items < 0)[:, None], 0.0).sum(-1)

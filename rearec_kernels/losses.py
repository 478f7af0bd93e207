"""Losses over the whole catalogue: annealed cross-entropy and ensemble reasoning.

No tensor of size [R, T, N] is made, forward or backward. Scalar losses have their gradients computed in the forward
pass (when they are needed at all); `reduction="none"` recomputes logits in the backward pass instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rearec_kernels.arguments import (
    as_int,
    as_number,
    check_catalog,
    check_soft_target,
    check_target,
    host_values,
)
from rearec_kernels.dispatch import check_precision, resolve_backend
from rearec_kernels.inclusion import sampled
from rearec_kernels.native import MAX_ENSEMBLE_STATES
from rearec_kernels.ops.arguments import AnnealedCrossEntropy, EnsembleReasoning, needed_of
from rearec_kernels.ops.losses import check_annealed, check_ensemble
from rearec_kernels.precision import operand_dtype
from rearec_kernels.sharded import losses as sharded
from rearec_kernels.sharded.meeting import refusals_told
from rearec_kernels.shards import CatalogShard

_KL_FORMS = ("official", "paper")
REDUCTIONS = ("mean", "none")


class EnsembleLoss(NamedTuple):
    """Scalars: `loss` = cross_entropy - kl_weight * kl; the two terms are detached.

    Examples:
        >>> EnsembleLoss(torch.tensor(1.0), torch.tensor(1.5), torch.tensor(5.0)).kl
        tensor(5.)
    """

    loss: Tensor
    cross_entropy: Tensor
    kl: Tensor


def annealed_temperatures(tau: float, alpha: float, steps: int) -> Tensor:
    """The temperatures tau * alpha^(steps - t) of the states t = 0..steps (ReaRec, arXiv 2503.22675, section 3.4).

    Args:
        tau: temperature of the last state, above 0.
        alpha: above 0; for alpha > 1 the distribution sharpens step by step.
        steps: reasoning steps K, at least 0.

    Returns:
        float64 [steps + 1] on the CPU: the `temperature` of `annealed_cross_entropy`.

    Raises:
        TypeError: an argument is no number; ValueError: tau or alpha is not finite and above 0, or steps is negative.

    Examples:
        >>> annealed_temperatures(0.5, 2.0, 2)
        tensor([2.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    steps = as_int("annealed_temperatures", "steps", steps, least=0)
    tau = as_number("annealed_temperatures", "tau", tau)
    alpha = as_number("annealed_temperatures", "alpha", alpha)
    if not (_is_positive(tau) and _is_positive(alpha)):
        raise ValueError(f"annealed_temperatures: tau and alpha must be finite and above 0, got {tau} and {alpha}")
    exponents = torch.arange(steps, -1, -1, dtype=torch.float64, device="cpu")
    return tau * float(alpha) ** exponents


def annealed_cross_entropy(
    hidden: Tensor,
    weight: Tensor | CatalogShard,
    target: Tensor | None,
    *,
    temperature: float | Sequence[float] | Tensor,
    step_weight: float | Sequence[float] | Tensor | None = None,
    soft_target: tuple[Tensor, Tensor] | None = None,
    log_inclusion: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    precision: str = "fp32",
) -> Tensor:
    """Cross-entropy of every reasoning state over the whole catalogue, each at its own temperature.

    With z_rt = hidden[r, t] @ weight.T / temperature[t]: the sum over t of step_weight[t] times the mean, over the rows
    that are not ignored, of logsumexp(z_rt) - z_rt[target[r]]. Progressive reasoning learning of ReaRec
    (arXiv 2503.22675, section 3.4); T = 1 is the ordinary full-softmax loss. Differentiable once, in hidden and weight.

    With a soft target, the terms are sum_m mass[r, t, m] (logsumexp(z_rt) - z_rt[items[r, m]]): cross-entropy against
    a few items of each row (a teacher's best, smoothed labels), without a distribution over the whole catalogue.

    With `log_inclusion`, weight is a sample of a larger catalogue: sampled softmax, where exp(z) of every item is
    divided by the probability that it was sampled, so that their sum has the whole catalogue's as its mean (Horvitz and
    Thompson 1952; the logQ correction of Bengio and Senecal 2008). A target is there for certain and is not corrected
    (arXiv 2507.09331). The mean of the loss is at most the whole catalogue's, the logarithm being concave.

    With a `CatalogShard` the rows of all ranks are the batch. "mean" is the mean over the rows of all ranks that are
    not ignored, the same number on every rank; "none" gives the own rows' [R, T], and every rank takes part in its
    backward pass, which adds up what they pass down. `hidden.grad` is the gradient in the own rows and `weight.grad`
    that in the own slice, both complete, where every rank differentiates the same function of the loss: they are not to
    be reduced or averaged. DistributedDataParallel averages gradients where those of an encoder are to be added: keep
    the shard out of it, and multiply the gradient of `hidden` by the number of ranks (`hidden.register_hook`).

    Args:
        hidden: [R, T, d], floating point.
        weight: [N, d], floating point; its dtype may differ from hidden's, as under autocast. Or a `CatalogShard` of
            it: then every rank of its group calls with its own rows, see below.
        target: [R], int32 or int64, in [0, N) or `ignore_index`. With a soft target it only says which rows are
            ignored, and may be None: then none is.
        temperature: above 0; a number, or T of them (a sequence or a CPU tensor). Not differentiated.
        step_weight: a number, or T of them, default 1. Not differentiated.
        soft_target: (items, mass): int32 or int64 [R, M] and floating point [R, M] or, for each state, [R, T, M]. An
            item is in [0, N), or -1 for none, whose mass does not count; repeated items add up. Mass is finite, at
            least 0, of any sum (a row without any has loss 0), and not differentiated.
        log_inclusion: floating point [N], at most 0, on weight's device: the logarithm of the probability with which
            each item is in this table, given the batch; 0 for the items that are targets. Not differentiated.
        ignore_index: rows with this target leave the loss and have gradients of zero; if all do, the loss is 0.
        reduction: "mean" as above, or "none" for the terms step_weight[t] * (...) of every row and step.
        precision: "fp32", "bf16", "tf32" on a GPU or "bf16x3" on a CPU; see `rearec_kernels.precision`.

    Returns:
        A scalar, or [R, T] under "none"; float32, or float64 if hidden or weight is.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        IndexError: a target or an item is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).

    Examples:
        >>> hidden, weight = torch.zeros(2, 3, 4), torch.zeros(8, 4, requires_grad=True)  # all items alike: log 8
        >>> target = torch.tensor([5, 0])
        >>> loss = annealed_cross_entropy(hidden, weight, target, temperature=annealed_temperatures(0.5, 2.0, 2))
        >>> round(loss.item() / 3, 4)
        2.0794
        >>> loss.backward()
        >>> annealed_cross_entropy(hidden, weight, target, temperature=1.0, reduction="none").shape
        torch.Size([2, 3])
        >>> smoothed = torch.tensor([[5, 1, 2], [0, 3, -1]]), torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.25, 9.0]])
        >>> loss = annealed_cross_entropy(hidden, weight, None, temperature=1.0, soft_target=smoothed, reduction="none")
        >>> [round(x / 2.0794, 3) for x in loss[:, 0].tolist()]
        [1.0, 0.75]

        Of 1,000 items the targets 8 and 9, and 98 of the other 998: each of these counts for 998 / 98.

        >>> items = torch.cat([torch.tensor([8, 9]), 10 + torch.randperm(990)[:98]])
        >>> log_inclusion = torch.full((100,), 98 / 998).log().index_fill(0, torch.tensor([0, 1]), 0.0)
        >>> hidden, weight, target = torch.zeros(2, 1, 4), torch.zeros(1000, 4), torch.tensor([0, 1])  # their places
        >>> loss = annealed_cross_entropy(
        ...     hidden, weight[items], target, temperature=1.0, log_inclusion=log_inclusion
        ... )
        >>> round(loss.item(), 4)  # log 1000
        6.9078
    """
    options = (temperature, step_weight, soft_target, log_inclusion, ignore_index, reduction, precision)
    if isinstance(weight, CatalogShard):
        with refusals_told(weight):
            _refuse_sample("annealed_cross_entropy", log_inclusion)
            loss, backend = _annealed(hidden, weight.table, target, *options)
            check_annealed(loss, weight.num_items)
        return sharded.annealed_cross_entropy(weight, loss, needed_of(*loss[:2]), reduction, backend)
    loss, backend = _annealed(hidden, weight, target, *options)
    if reduction == "none":
        # For the backward pass, whatever becomes of the caller's.
        items, mass = (None if x is None else x.clone() for x in (loss.soft_items, loss.soft_mass))
        loss = loss._replace(target=loss.target.clone(), soft_items=items, soft_mass=mass)
        losses, _ = torch.ops.rearec.annealed_cross_entropy_rows(*loss, backend)
        return losses
    mean, _, _ = torch.ops.rearec.annealed_cross_entropy(*loss, *needed_of(*loss[:2]), backend)
    return mean


def _annealed(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor | None,
    temperature: float | Sequence[float] | Tensor,
    step_weight: float | Sequence[float] | Tensor | None,
    soft_target: tuple[Tensor, Tensor] | None,
    log_inclusion: Tensor | None,
    ignore_index: int,
    reduction: str,
    precision: str,
) -> tuple[AnnealedCrossEntropy, str]:
    """The arguments once they are checked, and the backend."""
    op = "annealed_cross_entropy"
    check_catalog(op, hidden, weight)
    check_soft_target(op, soft_target, hidden)
    if target is None:
        if soft_target is None:
            raise TypeError(f"{op}: target may be None only beside a soft_target")
        target, ignore_index = soft_target[0].new_zeros(hidden.shape[0]), -100  # any item: no row is ignored
    ignore_index = check_target(op, target, ignore_index, hidden)
    if reduction not in REDUCTIONS:
        raise ValueError(f"{op}: reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    steps = hidden.shape[1]
    temperatures = host_values(op, "temperature", temperature, steps)
    if log_inclusion is not None:
        certain = target[:, None] if soft_target is None else soft_target[0]
        certain = certain.masked_fill((target == ignore_index)[:, None], -1)
        hidden, weight = sampled(op, hidden, weight, log_inclusion, certain, temperatures, precision)
    step_weights = host_values(op, "step_weight", 1.0 if step_weight is None else step_weight, steps)
    backend = resolve_backend(
        op, hidden.device, operand_dtype(hidden, weight), precision=precision, states=hidden.shape[1]
    )
    check_precision(op, precision, backend)
    items, mass = (None, None) if soft_target is None else soft_target
    loss = AnnealedCrossEntropy(
        hidden, weight, target, ignore_index, temperatures, step_weights, precision, items, mass, total_mass=None
    )
    return loss, backend


def _refuse_sample(op: str, log_inclusion: object) -> None:
    if log_inclusion is not None:
        raise ValueError(f"{op}: log_inclusion is for a sample of the catalogue, weight is a shard of all of it")


def ensemble_reasoning_loss(
    hidden: Tensor,
    weight: Tensor | CatalogShard,
    target: Tensor,
    *,
    temperature: float,
    kl_weight: float,
    kl_form: str = "official",
    log_inclusion: Tensor | None = None,
    ignore_index: int = -100,
    precision: str = "fp32",
) -> EnsembleLoss:
    """Cross-entropy of the mean state minus kl_weight times the divergence between the states' distributions.

    With p_t = softmax(hidden[r, t] @ weight.T / temperature), means over the rows that are not ignored. Ensemble
    reasoning learning of ReaRec (arXiv 2503.22675, section 3.3). Differentiable once, in hidden and weight; the
    gradient is finite also where probabilities underflow.

    Args:
        hidden: [R, T, d], floating point.
        weight: [N, d], floating point; its dtype may differ from hidden's, as under autocast. Or a `CatalogShard` of
            it, as in `annealed_cross_entropy`: `loss` and its terms are then the same on every rank.
        target: [R], int32 or int64, in [0, N) or `ignore_index`.
        temperature: above 0.
        kl_weight: factor of the divergence.
        kl_form: "official" (the published code): the mean over ordered pairs i != j of KL(p_j || p_i), no gradient
            through p_i; "paper": the sum over i < j of KL(p_i || p_j). 0 for T = 1.
        log_inclusion: where weight is a sample of a larger catalogue, as in `annealed_cross_entropy`. Divergences are
            then those of the distributions over the sample, each item's part divided by its probability to be there:
            near those of the whole catalogue for a large sample, not equal to them in the mean.
        ignore_index: rows with this target leave both terms and have gradients of zero; if all do, the loss is 0.
        precision: "fp32", "bf16", "tf32" on a GPU or "bf16x3" on a CPU; see `rearec_kernels.precision`.

    Returns:
        EnsembleLoss of scalars; float32, or float64 if hidden or weight is.

    Raises:
        TypeError, ValueError: an argument has the wrong type, shape, dtype, device or value.
        IndexError: a target is out of range (looked at on a CPU, elsewhere under REAREC_DEBUG=1).

    Examples:
        >>> hidden, weight = torch.zeros(2, 3, 4), torch.zeros(8, 4)  # all items and states alike: log 8, and 0
        >>> loss = ensemble_reasoning_loss(hidden, weight, torch.tensor([5, 0]), temperature=1.0, kl_weight=0.1)
        >>> round(loss.cross_entropy.item(), 4), abs(round(loss.kl.item(), 4))
        (2.0794, 0.0)
    """
    options = (temperature, kl_weight, kl_form, log_inclusion, ignore_index, precision)
    if isinstance(weight, CatalogShard):
        with refusals_told(weight):
            _refuse_sample("ensemble_reasoning_loss", log_inclusion)
            loss, backend = _ensemble(hidden, weight.table, target, *options)
            check_ensemble(loss, weight.num_items)
        return EnsembleLoss(*sharded.ensemble_reasoning_loss(weight, loss, needed_of(*loss[:2]), backend))
    loss, backend = _ensemble(hidden, weight, target, *options)
    value, cross_entropy, kl, _, _ = torch.ops.rearec.ensemble_reasoning_loss(*loss, *needed_of(*loss[:2]), backend)
    return EnsembleLoss(value, cross_entropy.detach(), kl.detach())


def _ensemble(
    hidden: Tensor,
    weight: Tensor,
    target: Tensor,
    temperature: float,
    kl_weight: float,
    kl_form: str,
    log_inclusion: Tensor | None,
    ignore_index: int,
    precision: str,
) -> tuple[EnsembleReasoning, str]:
    """The arguments once they are checked, and the backend."""
    op = "ensemble_reasoning_loss"
    check_catalog(op, hidden, weight)
    ignore_index = check_target(op, target, ignore_index, hidden)
    if hidden.shape[1] > MAX_ENSEMBLE_STATES:
        raise ValueError(
            f"{op}: hidden may have {MAX_ENSEMBLE_STATES} states per row at most, got {list(hidden.shape)}"
        )
    if kl_form not in _KL_FORMS:
        raise ValueError(f"{op}: kl_form must be one of {', '.join(_KL_FORMS)}, got {kl_form!r}")
    temperature, kl_weight = as_number(op, "temperature", temperature), as_number(op, "kl_weight", kl_weight)
    if log_inclusion is not None:
        certain = target.masked_fill(target == ignore_index, -1)
        temperatures = host_values(op, "temperature", temperature, hidden.shape[1])
        hidden, weight = sampled(op, hidden, weight, log_inclusion, certain, temperatures, precision)
    backend = resolve_backend(
        op, hidden.device, operand_dtype(hidden, weight), precision=precision, states=hidden.shape[1]
    )
    check_precision(op, precision, backend)
    numbers = float(temperature), float(kl_weight), kl_form
    return EnsembleReasoning(hidden, weight, target, ignore_index, *numbers, precision), backend


def _is_positive(x: float) -> bool:
    return 0 < x < math.inf

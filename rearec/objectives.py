"""The training objectives: base, naive, rpe, erl (paper, section 3.3) and prl (section 3.4)."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec.data.batch import IGNORE_INDEX
from rearec.models.config import ReaRecConfig
from rearec.reasoning import Rollout
from rearec_kernels import (
    annealed_cross_entropy,
    annealed_temperatures,
    ensemble_reasoning_loss,
    reasoning_info_nce,
)

__all__ = ["contrastive_active", "loss", "step_weights"]


def contrastive_active(model_config: ReaRecConfig, epoch: int) -> bool:
    """Whether the contrastive term counts in `epoch` (from 0): PRL with steps and weight, after ``warmup`` epochs."""
    has_term = model_config.method == "prl" and model_config.steps > 0 and model_config.cl_weight > 0
    return has_term and epoch >= model_config.warmup


def step_weights(model_config: ReaRecConfig, steps: int) -> list[float]:
    """PRL's weight of every state's cross-entropy, h_0..h_K: K + 1 numbers."""
    if model_config.step_weights == "paper":
        return [1.0] * (steps + 1)
    return [model_config.pl_weight / steps] * steps + [1.0] if steps else [1.0]


def loss(
    model_config: ReaRecConfig,
    rollout: Rollout,
    target: Tensor,
    group: Tensor,
    *,
    contrastive: bool,
    precision: str = "fp32",
) -> dict[str, Tensor]:
    """The objective of ``model_config.method`` on one batch.

    rollout: states [R, T, d], the table [N, d] and, if `contrastive`, the noised branch [R, T - 1, d].
    target: int64 [R], -100 for rows that leave every term.
    group: int64 [R]; rows of one group (a user) are not each other's negatives in the contrastive term.
    contrastive: whether PRL's contrastive term is on (see `contrastive_active`); other methods have none.
    precision: of the loss kernels, see `rearec_kernels`.

    Returns scalars: ``loss``, to be differentiated, and its terms, detached and not weighted: ``cross_entropy`` (the
    weighted sum over steps for prl, of the averaged state for erl, of the last state otherwise), ``kl`` (erl),
    ``contrastive`` (prl, 0 while it is off). If all rows are ignored everything is 0, the gradients too.
    """
    if model_config.method == "prl":
        return _progressive(model_config, rollout, target, group, contrastive, precision)
    if model_config.method == "erl":
        ensemble = ensemble_reasoning_loss(
            rollout.states,
            rollout.weight,
            target,
            temperature=model_config.temperature,
            kl_weight=model_config.kl_weight,
            kl_form=model_config.kl_form,
            ignore_index=IGNORE_INDEX,
            precision=precision,
        )
        return {"loss": ensemble.loss, "cross_entropy": ensemble.cross_entropy, "kl": ensemble.kl}
    cross_entropy = annealed_cross_entropy(
        rollout.states[:, -1:],
        rollout.weight,
        target,
        temperature=model_config.temperature,
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    return {"loss": cross_entropy, "cross_entropy": cross_entropy.detach()}


def _progressive(
    model_config: ReaRecConfig,
    rollout: Rollout,
    target: Tensor,
    group: Tensor,
    contrastive: bool,
    precision: str,
) -> dict[str, Tensor]:
    """Annealed cross-entropy over all states plus the contrastive term between noised and clean states."""
    steps = rollout.states.shape[1] - 1
    cross_entropy = annealed_cross_entropy(
        rollout.states,
        rollout.weight,
        target,
        temperature=annealed_temperatures(model_config.temperature, model_config.alpha, steps),
        step_weight=step_weights(model_config, steps),
        ignore_index=IGNORE_INDEX,
        precision=precision,
    )
    total = cross_entropy
    info_nce = torch.zeros_like(cross_entropy)
    if contrastive and steps > 0 and model_config.cl_weight > 0:
        if rollout.noised is None:
            raise ValueError("contrastive: the rollout has no noised branch, call the model with return_noised=True")
        info_nce = _contrastive(model_config, rollout.noised, rollout.states[:, 1:], target, group, precision)
        total = cross_entropy + model_config.cl_weight * info_nce
    return {"loss": total, "cross_entropy": cross_entropy.detach(), "contrastive": info_nce.detach()}


def _contrastive(
    model_config: ReaRecConfig, noised: Tensor, clean: Tensor, target: Tensor, group: Tensor, precision: str
) -> Tensor:
    """InfoNCE over the rows that have a target; 0 if there is none."""
    kept = (target != IGNORE_INDEX).nonzero().squeeze(1)
    if len(kept) == 0:
        return clean.new_zeros(())
    if len(kept) < len(target):
        noised, clean, group = noised[kept], clean[kept], group[kept]
    return reasoning_info_nce(noised, clean, temperature=model_config.temperature, row_group=group, precision=precision)

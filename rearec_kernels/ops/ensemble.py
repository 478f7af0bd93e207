"""What the ensemble loss makes of the sums over the items: the two terms of every row."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import EnsembleReasoning, EnsembleSums


def ensemble_pairs(loss: EnsembleReasoning) -> int:
    """What the sum over pairs of states is divided by."""
    steps = loss.hidden.shape[1]
    return 1 if loss.kl_form == "paper" else max(1, steps * (steps - 1))


def ensemble_terms(sums: EnsembleSums, loss: EnsembleReasoning) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the mean state and divergence of the states, float64 [R] each; anything in ignored rows."""
    steps = sums.spread.shape[1]
    log_total = sums.total.double().log()
    kl = (sums.spread / sums.total[:, :steps].double()).sum(1) / loss.temperature
    if loss.kl_form == "paper":
        # Differences of logarithms of sums; their coefficients add up to 0, so what is common to all states cancels.
        largest = sums.largest
        relative = (largest[:, :steps] - largest[:, :1]).double() / loss.temperature + log_total[:, :steps]
        coefficients = torch.arange(steps - 1, -steps, -2, device=relative.device)
        kl = kl - ((relative - log_total[:, :1]) * coefficients).sum(1)
    return log_total[:, steps] - sums.target_logit, kl / ensemble_pairs(loss)

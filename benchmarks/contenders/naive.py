"""Plain PyTorch as the official ReaRec code computes it: concatenated caches, additive masks, materialised logits.

Timed, not compared: the KL of `ensemble_loss` has NaN gradients once a probability underflows (SPEC of the losses in
rearec_kernels.losses). The oracle of the tests is rearec_kernels.reference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attention_steps(
    prefix_k: Tensor, prefix_v: Tensor, mask: Tensor, q: list[Tensor], k: list[Tensor], v: list[Tensor]
) -> list[Tensor]:
    """Reasoning steps over a growing cache. prefix [R, C, H, D]; mask [R, 1, 1, C], 0 or -1e4; q, k, v [R, H, D]."""
    keys, values, outputs = prefix_k, prefix_v, []
    for query, key, value in zip(q, k, v, strict=True):
        keys, values = torch.cat([keys, key[:, None]], dim=1), torch.cat([values, value[:, None]], dim=1)
        mask = F.pad(mask, (0, 1))
        outputs.append(attend(query, keys, values, mask))
    return outputs


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """One query [R, H, D] over keys and values [R, C, H, D]."""
    scores = query[:, :, None] @ keys.permute(0, 2, 3, 1) / query.shape[-1] ** 0.5 + mask
    return (scores.softmax(-1) @ values.transpose(1, 2)).squeeze(2)


def annealed_cross_entropy(
    hidden: Tensor, weight: Tensor, target: Tensor, temperature: Tensor, step_weight: Tensor
) -> Tensor:
    """Sum over steps of weighted cross entropies over the whole catalogue, logits [R, T, N] materialised."""
    logits = hidden @ weight.T / temperature[:, None]
    losses = F.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(hidden.shape[1]), reduction="none")
    return (losses.view(hidden.shape[:2]).mean(0) * step_weight).sum()


def ensemble_loss(hidden: Tensor, weight: Tensor, target: Tensor, temperature: float, kl_weight: float) -> Tensor:
    """Cross entropy of the mean state minus the mean pairwise KL, [R, T, T, N] materialised."""
    logits = hidden @ weight.T / temperature
    cross_entropy = F.cross_entropy(hidden.mean(1) @ weight.T / temperature, target)
    log_q = logits.detach().log_softmax(-1).unsqueeze(2)
    kl = F.kl_div(log_q, logits.softmax(-1).unsqueeze(1), reduction="none").sum(-1)
    different = ~torch.eye(hidden.shape[1], dtype=torch.bool, device=hidden.device)
    return cross_entropy - kl_weight * kl[:, different].mean()


def info_nce(noised: Tensor, clean: Tensor, temperature: float) -> Tensor:
    """Per-step in-batch InfoNCE, similarities [R, T, R] materialised and permuted."""
    similarity = torch.einsum("rtd,ktd->rtk", noised, clean) / temperature
    target = torch.arange(noised.shape[0], device=noised.device)[:, None].expand(-1, noised.shape[1])
    return F.cross_entropy(similarity.permute(0, 2, 1), target)


def topk(hidden: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """All scores [R, N], then torch.topk."""
    scores, items = (hidden @ weight.T).topk(k)
    return scores, items


def rank(hidden: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    """All scores [R, N], then a count."""
    scores = hidden @ weight.T
    own = scores.gather(1, target[:, None])
    return (scores > own).sum(1) + 0.5 * ((scores == own).sum(1) - 1)

"""What a batch is trained against where the catalogue is too large: its targets and a random sample of the other items.

Every target of a batch is a candidate, and so are the neighbours that a teacher names; S of the N - M items that remain
are drawn uniformly without replacement. Given the batch, each of those is one with probability S / (N - M), by
which its exp(score) is divided (`rearec_kernels.annealed_cross_entropy`): exact, however the batch was put together.
Probabilities to be a target of any batch, made of the items' counts, would not be: rows of one user come together.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rearec.distributed import gather_rows
from rearec.models.item_table import held
from rearec.reasoning import Rollout

__all__ = ["CandidateSampler"]


class CandidateSampler:
    """Draws the candidates of every batch; the same ones for the same seed, epoch, batch and targets.

    Args:
        negatives: S, how many items are drawn, at least 1; all that remain where these are fewer.
        seed: a non-negative number.

    Examples:
        >>> import torch
        >>> from rearec.reasoning import Rollout
        >>> from rearec.training.candidates import CandidateSampler
        >>> rollout = Rollout(states=torch.randn(3, 1, 8), weight=torch.randn(1000, 8))
        >>> sampler = CandidateSampler(negatives=98, seed=0)
        >>> sample, target = sampler(rollout, torch.tensor([700, 30, 700]), epoch=0, step=0)
        >>> sample.weight.shape, target.tolist(), torch.equal(sample.weight[target[0]], rollout.weight[700])
        (torch.Size([100, 8]), [1, 0, 1], True)
        >>> [round(x, 4) for x in sample.log_inclusion[:3].exp().tolist()]  # two targets, then 98 of 998
        [1.0, 1.0, 0.0982]
    """

    def __init__(self, negatives: int, seed: int) -> None:
        self.negatives = negatives
        self.seed = seed

    def __call__(self, rollout: Rollout, target: Tensor, *, epoch: int, step: int) -> tuple[Rollout, Tensor]:
        """The rollout with a table of the candidates alone, and the targets' places in it.

        Several processes that train together have the same candidates: the targets and neighbours of all.

        target: int64 [R], negative for rows without one.
        """
        neighbors = rollout.neighbors
        asked = target if neighbors is None else torch.cat([target, neighbors.flatten()])
        (of_all,), first = gather_rows(asked)
        certain, place = of_all.unique(return_inverse=True)  # sorted: what is no item comes first
        place = place[first : first + len(asked)]
        nothing = int((certain < 0).sum())
        certain, place = certain[nothing:], torch.where(asked < 0, asked, place - nothing)
        table = held(rollout.weight)
        others = len(table) - len(certain)
        drawn = min(self.negatives, others)
        items = torch.cat([certain, _without(certain, self._ranks(others, drawn, epoch, step).to(certain.device))])
        log_inclusion = torch.zeros(len(items), device=items.device)
        log_inclusion[len(certain) :] = math.log(drawn / others) if drawn else 0.0
        of_rows, of_neighbors = place.split([len(target), len(asked) - len(target)])
        return (
            replace(
                rollout,
                weight=table.index_select(0, items),
                neighbors=None if neighbors is None else of_neighbors.view_as(neighbors),
                log_inclusion=log_inclusion,
            ),
            of_rows,
        )

    def _ranks(self, others: int, drawn: int, epoch: int, step: int) -> Tensor:
        """int64 [drawn], all different, below ``others``: NumPy's, which are the same for every device."""
        generator = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch, step)))
        return torch.from_numpy(generator.choice(others, drawn, replace=False, shuffle=False))


def _without(certain: Tensor, ranks: Tensor) -> Tensor:
    """The items at these ranks, from 0, among all that are not ``certain``, which are sorted."""
    below = certain - torch.arange(len(certain), device=certain.device)  # of the others, how many come before each
    return ranks + torch.searchsorted(below, ranks, right=True)

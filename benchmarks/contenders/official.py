"""The published ReaRec algorithm (arXiv 2503.22675 and what its official code computes), in plain PyTorch, own code.

Every (history, next item) row is encoded by itself, left padded to the longest history there may be. With the
contrastive term the batch is doubled before it is encoded. Caches are concatenated, masks are built for every step and
added, and losses keep all logits. The published code adds a mask of all rows to the one query of a reasoning step,
which turns it into C + k rows, of which one is kept; `mask_fixed` adds that row of the mask only.

In doubt it is the faster one: there is no padding item in the softmax, and what the published training step computes
without use (a second product with the catalogue in ERL) is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from contenders import naive
from contenders.plain_model import PlainLayer, PlainModel, objective

MASKED = -1e10


class OfficialModel(PlainModel):
    """mask_fixed: compute only the row of a reasoning step that is kept."""

    def __init__(self, config: object, mask_fixed: bool) -> None:
        super().__init__(config)
        self.mask_fixed = mask_fixed

    def forward(
        self, items: Tensor, lengths: Tensor, *, noise: float = 0.0, return_noised: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Left padded histories [R, C] with `lengths` [R] items each -> the states [R, T, d] of the clean branch, and
        those of the noised one [R, K, d] or None."""
        rows, slots = items.shape
        positions = (torch.arange(slots, device=items.device) - (slots - lengths)[:, None]).clamp(min=0)
        inputs = self.item_embedding(items) + self.position_embedding(positions)
        if return_noised:
            inputs, lengths = inputs.repeat(2, 1, 1), lengths.repeat(2)
        caches: list[tuple[Tensor, Tensor] | None] = [None] * len(self.layers)
        states: list[Tensor] = []
        noised: list[Tensor] = []
        for step in range(self.config.steps + 1):
            hidden, mask = self.normalise(inputs), _mask(lengths + step, slots + step)
            for i, layer in enumerate(self.layers):
                hidden, caches[i] = self._layer(layer, hidden, mask, caches[i])
            last = hidden[:, -1:]
            states.append(last[:rows])
            if return_noised and step > 0:
                noised.append(last[rows:])
            if step < self.config.steps:
                inputs = self.reasoning_token(states[-1], step)
                if return_noised:
                    inputs = torch.cat([inputs, inputs + noise * torch.randn_like(inputs)])
        return torch.cat(states, 1), torch.cat(noised, 1) if noised else None

    def _layer(
        self, layer: PlainLayer, hidden: Tensor, mask: Tensor, cache: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One layer over hidden [B, Q, d]; its keys and values join the cache."""
        query, key, value = layer.project(hidden)
        if cache is not None:
            key, value = torch.cat([cache[0], key], 2), torch.cat([cache[1], value], 2)
            if self.mask_fixed:
                mask = mask[:, :, -1:]
        scores = query @ key.mT / query.shape[-1] ** 0.5 + mask
        attended = layer.dropout(scores.softmax(-1)) @ value
        out = layer.finish(hidden, attended.transpose(1, 2).flatten(2))
        return out[:, -hidden.shape[1] :], (key, value)

    def loss(self, items: Tensor, lengths: Tensor, target: Tensor, *, contrastive: bool) -> Tensor:
        """The training loss of PRL or ERL with every logit in memory; negatives of the InfoNCE are all other rows."""
        states, noised = self(items, lengths, noise=self.config.noise, return_noised=contrastive)
        return objective(self.config, naive, states, noised, self.weight, target)

    @torch.no_grad()
    def topk(self, items: Tensor, lengths: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores and items [R, k], from all scores."""
        states, _ = self(items, lengths)
        return naive.topk(self.final_state(states), self.weight, k)


def _mask(lengths: Tensor, slots: int) -> Tensor:
    """What is added to scores, [B, 1, slots, slots]: causal, and nobody sees the padding."""
    mask = torch.ones(len(lengths), 1, slots, slots, device=lengths.device).tril()
    mask = mask.masked_fill(mask == 0, MASKED).masked_fill(mask == 1, 0.0)
    padding = torch.arange(slots, device=lengths.device) < (slots - lengths)[:, None]
    return mask.masked_fill(padding[:, None, None], MASKED)

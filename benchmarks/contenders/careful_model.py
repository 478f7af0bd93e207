"""The best plain PyTorch a careful user would write for the same model: every window encoded once, right padded to the
longest of the batch, fused attention, the position-wise part of the last layer for the rows alone, chunked losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from contenders import careful
from contenders.plain_model import PlainLayer, PlainModel, objective


class CarefulModel(PlainModel):
    """Takes the fields of `rearec.data.batches.Batch`."""

    def encode(self, items: Tensor, row_prefix: Tensor, end: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Windows [S, C] -> states [R, d] of the rows' last items; keys and values [S, H, C, D] of each layer."""
        hidden = self.normalise(self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]])
        last = row_prefix.long() * items.shape[1] + end.long() - 1
        cache = []
        for depth, layer in enumerate(self.layers, start=1):
            query, key, value = layer.project(hidden)
            cache.append((key, value))
            attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self._dropout, is_causal=True)
            attended = attended.transpose(1, 2).flatten(2)
            if depth == len(self.layers):
                hidden, attended = (x.flatten(0, 1).index_select(0, last) for x in (hidden, attended))
            hidden = layer.finish(hidden, attended)
        return hidden, cache

    def forward(
        self, items: Tensor, row_prefix: Tensor, end: Tensor, *, noise: float = 0.0, return_noised: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """The states [R, T, d] of the clean branch, and those of the noised one [R, K, d] or None."""
        state, prefix = self.encode(items, row_prefix, end)
        rows, slots = len(end), items.shape[1]
        branches = 2 if return_noised else 1
        index = row_prefix.long().repeat(branches)
        seen = torch.arange(slots, device=items.device) < end.repeat(branches)[:, None]
        visible = F.pad(seen, (0, self.config.steps), value=True)[:, None, None]
        # One window per row and one branch: the keys and values are where they should be already.
        gathers = return_noised or len(items) < rows
        caches = [tuple(x.index_select(0, index) if gathers else x for x in pair) for pair in prefix]
        states, noised = [state], []
        for step in range(self.config.steps):
            token = self.reasoning_token(states[-1], step)
            if return_noised:
                token = torch.cat([token, token + noise * torch.randn_like(token)])
            token = self.normalise(token)
            for i, layer in enumerate(self.layers):
                token, caches[i] = self._step(layer, token, caches[i], visible[..., : slots + step + 1])
            clean, *noisy = token.split(rows)
            states.append(clean)
            noised.extend(noisy)
        return torch.stack(states, 1), torch.stack(noised, 1) if noised else None

    @property
    def _dropout(self) -> float:
        return self.config.dropout if self.training else 0.0

    def _step(
        self, layer: PlainLayer, token: Tensor, cache: tuple[Tensor, ...], visible: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        query, *new = layer.project(token[:, None])
        key, value = cache = tuple(torch.cat(pair, 2) for pair in zip(cache, new, strict=True))
        attended = F.scaled_dot_product_attention(query, key, value, visible, dropout_p=self._dropout)
        return layer.finish(token, attended.flatten(1)), cache

    def loss(self, items: Tensor, row_prefix: Tensor, end: Tensor, target: Tensor, *, contrastive: bool) -> Tensor:
        """The training loss of PRL or ERL; negatives of the InfoNCE are all other rows."""
        states, noised = self(items, row_prefix, end, noise=self.config.noise, return_noised=contrastive)
        return objective(self.config, careful, states, noised, self.weight, target)

    @torch.no_grad()
    def final_states(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Right padded histories [R, C] -> [R, d], for inference; keys and values in buffers with room for steps."""
        rows, slots = items.shape
        state, prefix = self.encode(items, torch.arange(rows, device=items.device), lengths)
        caches = [careful.PreallocatedCache(k.transpose(1, 2), v.transpose(1, 2), self.config.steps) for k, v in prefix]
        seen = torch.arange(slots, device=items.device) < lengths[:, None]
        visible = F.pad(seen, (0, self.config.steps), value=True)[:, None, None]
        states = [state]
        for step in range(self.config.steps):
            token = self.normalise(self.reasoning_token(states[-1], step))
            for layer, cache in zip(self.layers, caches, strict=True):
                query, key, value = (x.squeeze(2) for x in layer.project(token[:, None]))
                token = layer.finish(token, cache.attend(step, visible, query, key, value).flatten(1))
            states.append(token)
        return self.final_state(torch.stack(states, 1))

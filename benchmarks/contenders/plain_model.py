"""The parameters of a SASRec with reasoning steps in plain PyTorch: what the official and the careful algorithm share.

Named like those of `rearec.ReaRec`, so that its weights can be loaded; none of its code runs here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec.objectives import step_weights
from rearec_kernels import annealed_temperatures

LAYER_NORM_EPS = 1e-12


class PlainLayer(nn.Module):
    """Post-LN Transformer layer; how it attends is up to the algorithm."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(dim, dim) for _ in range(4))
        self.attention_norm, self.feed_forward_norm = (nn.LayerNorm(dim, LAYER_NORM_EPS) for _ in range(2))
        self.inner, self.outer = nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.dropout = nn.Dropout(dropout)

    def project(self, inputs: Tensor) -> list[Tensor]:
        """[B, Q, d] -> query, key and value [B, H, Q, D]."""
        return [f(inputs).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)]

    def finish(self, inputs: Tensor, attended: Tensor) -> Tensor:
        """What follows the attention: inputs [..., d], or broadcastable to it, and attended values [..., d]."""
        hidden = self.attention_norm(self.dropout(self.output(attended)) + inputs)
        return self.feed_forward_norm(self.dropout(self.outer(F.gelu(self.inner(hidden)))) + hidden)


class PlainModel(nn.Module):
    """config: of `rearec.models.config.ReaRecConfig`, or anything that has its fields."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.item_embedding = nn.Embedding(config.num_items, config.dim)
        self.position_embedding = nn.Embedding(config.max_len, config.dim)
        self.input_norm = nn.LayerNorm(config.dim, LAYER_NORM_EPS)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.layers = nn.ModuleList(
            PlainLayer(config.dim, config.heads, config.ffn, config.dropout) for _ in range(config.layers)
        )
        if config.has_reasoning_positions:
            self.reasoning_position_embedding = nn.Embedding(config.steps, config.dim)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Takes over the state dict of a `rearec.ReaRec`."""
        self.load_state_dict({k.removeprefix("backbone.").removeprefix("encoder."): v for k, v in weights.items()})

    @property
    def weight(self) -> Tensor:
        """The item table [N, d]."""
        return self.item_embedding.weight

    def normalise(self, inputs: Tensor) -> Tensor:
        """What items and reasoning tokens pass before the first layer."""
        return self.input_dropout(self.input_norm(inputs))

    def reasoning_token(self, state: Tensor, step: int) -> Tensor:
        """The input of reasoning step `step` (from 0), before noise and LayerNorm."""
        return state + self.reasoning_position_embedding.weight[step] if self.config.has_reasoning_positions else state

    def final_state(self, states: Tensor) -> Tensor:
        """[R, T, d] -> [R, d], what ranks items."""
        return states.mean(1) if self.config.method == "erl" else states[:, -1]


def objective(
    config: Any, losses: Any, states: Tensor, noised: Tensor | None, weight: Tensor, target: Tensor
) -> Tensor:
    """The loss of PRL or ERL on states [R, T, d]; `losses` is the module `naive` or `careful`."""
    if config.method == "erl":
        return losses.ensemble_loss(states, weight, target, config.temperature, config.kl_weight)
    temperature = annealed_temperatures(config.temperature, config.alpha, config.steps).to(states)
    step_weight = torch.tensor(step_weights(config, config.steps), device=states.device)
    loss = losses.annealed_cross_entropy(states, weight, target, temperature, step_weight)
    if noised is not None:
        loss = loss + config.cl_weight * losses.info_nce(noised, states[:, 1:], config.temperature)
    return loss


def padded(histories: Sequence[Sequence[int]], slots: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """The last `slots` items of each history as int64 [R, C], padded with item 0, and their number [R].

    C is `slots` with padding on the left, as in the official code, otherwise the length of the longest."""
    kept = [history[-slots:] for history in histories]
    lengths = np.array([len(history) for history in kept])
    items = np.zeros((len(kept), slots if left else lengths.max()), dtype=np.int64)
    for row, history in zip(items, kept, strict=True):
        row[slots - len(history) if left else 0 :][: len(history)] = history
    return torch.from_numpy(items), torch.from_numpy(lengths)

"""UniSRec: parametric whitening of text features and a mixture-of-experts adaptor (arXiv 2206.05941)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.text import TextBackbone
from rearec.models.title_encoder import TitleEncoder

__all__ = ["MixtureOfWhitenings", "UniSRec"]

LEAST_NOISE = 1e-2


class MixtureOfWhitenings(nn.Module):
    """v(x) = Σ_i g_i(x) · W_i (dropout(x) - b_i), a mixture of parametric whitenings (UniSRec, section 3.1.1).

    The gate g is a softmax over all experts of x·W_g, to which training adds Gaussian noise of the learned scale
    softplus(x·W_n) + 0.01.
    """

    def __init__(self, features: int, dim: int, experts: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.whitening = nn.Parameter(torch.empty(experts, features, dim).normal_(std=0.02))
        self.shift = nn.Parameter(torch.zeros(experts, features))
        self.gate = nn.Parameter(torch.zeros(features, experts))
        self.gate_noise = nn.Parameter(torch.zeros(features, experts))

    def forward(self, features: Tensor) -> Tensor:
        """[N, features] -> [N, dim]."""
        logits = features @ self.gate
        if self.training:
            logits = logits + torch.randn_like(logits) * (F.softplus(features @ self.gate_noise) + LEAST_NOISE)
        gates = logits.softmax(dim=-1)
        vectors = features.new_zeros(len(features), self.whitening.shape[-1])
        for expert, (whitening, shift) in enumerate(zip(self.whitening, self.shift, strict=True)):
            # the shift goes through the product by itself: no copy of all features is made for it
            dropped = F.dropout(features, self.dropout) if self.training and self.dropout else features
            vectors = vectors + gates[:, expert, None] * (dropped @ whitening - shift @ whitening)
        return vectors


class UniSRec(TextBackbone):
    """Items are mixtures of whitenings of their features; ``transductive`` adds an embedding of each item's id.

    Both sides of the score are L2-normalised; the state that is fed back is not.
    """

    def __init__(self, config: ReaRecConfig, texts: Tensor | TitleEncoder) -> None:
        super().__init__(config, texts)
        self.item_embedding: nn.Embedding | None = None
        if config.transductive:
            self.item_embedding = nn.Embedding(config.num_items, config.dim)
            self.item_embedding.apply(init_weights)
        self.adaptor = MixtureOfWhitenings(config.feature_dim, config.dim, config.experts, config.adaptor_dropout)

    def item_table(self) -> Tensor:
        """[N, d]; the noise of the gate is drawn once for all uses of a pass."""
        vectors: Tensor = self.adaptor(self.text_vectors())
        return vectors if self.item_embedding is None else vectors + self.item_embedding.weight

    def scored(self, vectors: Tensor) -> Tensor:
        """L2-normalised."""
        return F.normalize(vectors, dim=-1)

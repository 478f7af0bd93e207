"""SASRec as ReaRec uses it: a causal Transformer over item embeddings, which also score (a tied item table)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.transformer import TransformerBackbone

__all__ = ["SASRec"]


class SASRec(TransformerBackbone):
    """The item table has exactly ``num_items`` rows: there is no padding item, padding slots are shut out by `end`."""

    def __init__(self, config: ReaRecConfig) -> None:
        super().__init__(config)
        self.item_embedding = nn.Embedding(config.num_items, config.dim)
        self.apply(init_weights)

    def item_table(self) -> Tensor:
        """The item embeddings, [N, d]."""
        return self.item_embedding.weight

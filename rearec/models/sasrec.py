"""SASRec as ReaRec uses it: a causal Transformer over item embeddings, which also score (a tied item table)."""

from __future__ import annotations

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.item_table import ItemTable, item_embedding, table_of
from rearec.models.transformer import TransformerBackbone

__all__ = ["SASRec"]


class SASRec(TransformerBackbone):
    """The item table has exactly ``num_items`` rows: there is no padding item, padding slots are shut out by `end`.

    rows: the items that this process is to hold, where several hold the table together; None: all.
    """

    def __init__(self, config: ReaRecConfig, rows: range | None = None) -> None:
        super().__init__(config)
        self.item_embedding = item_embedding(config.num_items, config.dim, rows)
        self.apply(init_weights)

    def item_table(self) -> ItemTable:
        """The item embeddings, [N, d]."""
        return table_of(self.item_embedding)

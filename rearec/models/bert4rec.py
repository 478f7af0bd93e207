"""BERT4Rec as ReaRec uses it: a bidirectional Transformer over item embeddings, which also score (arXiv 1904.06690)."""

from __future__ import annotations

from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import init_weights
from rearec.models.transformer import TransformerBackbone

__all__ = ["BERT4Rec"]


class BERT4Rec(TransformerBackbone):
    """The items that a row sees attend to each other, reasoning tokens to them and to earlier tokens.

    Items never see tokens, so that their K/V stay valid (prefix mask). Trained on the next item, as every backbone of
    the paper. What an item's state is depends on where its row ends: every row has a window of its own.
    """

    shares_windows = False

    def __init__(self, config: ReaRecConfig) -> None:
        super().__init__(config, bidirectional=True)
        self.item_embedding = nn.Embedding(config.num_items, config.dim)
        self.apply(init_weights)

    def item_table(self) -> Tensor:
        """The item embeddings, [N, d]."""
        return self.item_embedding.weight

"""SASRec as ReaRec uses it: learned absolute positions, post-LN causal Transformer, tied item table."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from rearec.models.config import ReaRecConfig
from rearec.models.encoder import LAYER_NORM_EPS, EncodedPrefix, TransformerEncoder, init_weights
from rearec_kernels import ReasoningCache, dropout_add_layer_norm

__all__ = ["SASRec"]


class SASRec(nn.Module):
    """Encodes item windows and continues them by reasoning tokens.

    The item table has exactly ``num_items`` rows: there is no padding item, padding slots are shut out by `end`. The
    first slot of a window has position 0. Reasoning tokens pass through the same input LayerNorm and dropout as items.
    """

    def __init__(self, config: ReaRecConfig) -> None:
        super().__init__()
        self.item_embedding = nn.Embedding(config.num_items, config.dim)
        self.position_embedding = nn.Embedding(config.max_len, config.dim)
        self.input_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.encoder = TransformerEncoder(
            layers=config.layers, dim=config.dim, heads=config.heads, ffn=config.ffn, dropout=config.dropout
        )
        self.apply(init_weights)

    @property
    def weight(self) -> Tensor:
        """The item table [N, d], shared by the input and the output side."""
        return self.item_embedding.weight

    def encode(self, items: Tensor, row_prefix: Tensor, end: Tensor) -> EncodedPrefix:
        """Encode right padded windows of item ids, int64 [S, C]; rows as in `TransformerEncoder.encode`.

        Raises ValueError for windows longer than ``max_len`` and, on CPU tensors, for a row that sees no item.
        """
        max_len = self.position_embedding.num_embeddings
        if items.ndim != 2 or not 1 <= items.shape[1] <= max_len:
            raise ValueError(f"items: got shape {tuple(items.shape)}, expected [windows, 1..{max_len} slots]")
        if row_prefix.ndim != 1 or row_prefix.shape != end.shape:
            raise ValueError(
                f"row_prefix and end: got shapes {tuple(row_prefix.shape)} and {tuple(end.shape)}, expected [rows] each"
            )
        # a row without items would silently read the window before its own
        if end.device.type == "cpu" and end.numel():
            low, high = int(end.min()), int(end.max())
            if low < 1 or high > items.shape[1]:
                raise ValueError(f"end: got values {low}..{high}, expected 1..{items.shape[1]} (items that a row sees)")
        positions = self.position_embedding.weight[: items.shape[1]]
        return self.encoder.encode(self._normalise(self.item_embedding(items) + positions), row_prefix, end)

    def step(self, token: Tensor, caches: Sequence[ReasoningCache]) -> Tensor:
        """One reasoning token per row, not yet normalised, [R, d] -> its state [R, d]; one cache per layer."""
        return self.encoder.step(self._normalise(token), caches)

    def _normalise(self, inputs: Tensor) -> Tensor:
        norm, dropout_p = self.input_norm, self.input_dropout.p if self.training else 0.0
        return dropout_add_layer_norm(inputs, None, norm.weight, norm.bias, eps=norm.eps, output_dropout_p=dropout_p)

"""The post-LN Transformer encoder: a causal pass over the prefix, then one token at a time over its cached K/V."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from rearec_kernels import ReasoningCache, cached_reason_attention

__all__ = ["LAYER_NORM_EPS", "EncodedPrefix", "TransformerEncoder", "TransformerLayer", "gather_rows", "init_weights"]

LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class EncodedPrefix:
    """What encoding S windows of C slots leaves for R rows.

    states: [R, d], the last layer's state at every row's last item: h_0.
    keys, values: per layer [S, C, H, D]; a row's reasoning tokens attend to the slots of its window that it sees.
    """

    states: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def init_weights(module: nn.Module) -> None:
    """Initialise one module as BERT does: N(0, 0.02) for linear and embedding weights, zero biases, identity norms."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, mean=0.0, std=0.02)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        nn.init.zeros_(module.bias)


def gather_rows(slots: Tensor, row_prefix: Tensor, end: Tensor) -> Tensor:
    """The last slot that each row sees: slots [S, C, d], row_prefix and end int [R] -> [R, d]."""
    flat = row_prefix.long() * slots.shape[1] + end.long() - 1
    return slots.flatten(0, 1).index_select(0, flat)


class TransformerLayer(nn.Module):
    """Multi-head attention and a GELU feed-forward layer, each followed by dropout, residual and LayerNorm."""

    def __init__(self, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.inner = nn.Linear(dim, ffn)
        self.outer = nn.Linear(ffn, dim)
        self.feed_forward_norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        self.dropout = nn.Dropout(dropout)

    def attend_prefix(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Causal self-attention over [S, C, d]: the attended values [S, C, d], and K and V [S, C, H, D].

        Windows are right padded, so a real slot never sees padding; what padding slots compute is never read.
        """
        query, key, value = self._project(inputs)
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            dropout_p=self._attention_dropout_p,
            is_causal=True,
        )
        return attended.transpose(1, 2).flatten(-2), key, value

    def finish(self, inputs: Tensor, attended: Tensor) -> Tensor:
        """All that follows the attention, position by position: [..., d] inputs and attended values -> [..., d]."""
        hidden = self.attention_norm(self.dropout(self.output(attended)) + inputs)
        inner = F.gelu(self.inner(hidden))
        return self.feed_forward_norm(self.dropout(self.outer(inner)) + hidden)

    def step(self, token: Tensor, cache: ReasoningCache) -> Tensor:
        """One new reasoning token per row, [R, d] -> [R, d]; its K and V are appended to the cache."""
        query, key, value = self._project(token[:, None])
        attended = cached_reason_attention(query, key, value, cache, dropout_p=self._attention_dropout_p)
        return self.finish(token, attended.flatten(1))

    @property
    def _attention_dropout_p(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values with the heads split off: [..., d] -> [..., H, D]."""
        split = (self.heads, -1)
        return (
            self.query(inputs).unflatten(-1, split),
            self.key(inputs).unflatten(-1, split),
            self.value(inputs).unflatten(-1, split),
        )


class TransformerEncoder(nn.Module):
    """A stack of causal `TransformerLayer`s that encodes windows once and then continues each row by single tokens."""

    def __init__(self, *, layers: int, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, ffn, dropout) for _ in range(layers))

    def encode(self, inputs: Tensor, row_prefix: Tensor, end: Tensor) -> EncodedPrefix:
        """Encode right padded windows [S, C, d]; row r stands at slot end[r] - 1 of window row_prefix[r].

        row_prefix, end: int [R]. Only the rows' states are needed from the last layer, so its position-wise part
        (output projection and feed-forward) runs on R rows instead of S·C slots.
        """
        keys: list[Tensor] = []
        values: list[Tensor] = []
        hidden = inputs
        for depth, layer in enumerate(self._each_layer(), start=1):
            attended, key, value = layer.attend_prefix(hidden)
            keys.append(key)
            values.append(value)
            if depth == len(self.layers):
                hidden = gather_rows(hidden, row_prefix, end)
                attended = gather_rows(attended, row_prefix, end)
            hidden = layer.finish(hidden, attended)
        return EncodedPrefix(hidden, tuple(keys), tuple(values))

    def step(self, token: Tensor, caches: Sequence[ReasoningCache]) -> Tensor:
        """Run one token per row [R, d] through all layers; layer i appends to, and attends over, caches[i]."""
        for layer, cache in zip(self._each_layer(), caches, strict=True):
            token = layer.step(token, cache)
        return token

    def _each_layer(self) -> Iterator[TransformerLayer]:
        return (cast(TransformerLayer, layer) for layer in self.layers)

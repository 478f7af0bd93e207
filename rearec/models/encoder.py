"""The post-LN Transformer encoder: a causal pass over the prefix, then one token at a time over its cached K/V."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec_kernels import (
    PrefixRows,
    ReasoningCache,
    cached_reason_attention,
    dropout_add_layer_norm,
    resolve_backend,
)

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
        if _one_by_one(inputs) and self._attention_dropout_p > 0:
            attended = self._attend(query.flatten(0, 1), key, value, *_every_slot(inputs))
            return attended.unflatten(0, inputs.shape[:2]), key, value
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            dropout_p=self._attention_dropout_p,
            is_causal=True,
        )
        return attended.transpose(1, 2).flatten(-2), key, value

    def attend_rows(self, inputs: Tensor, row_prefix: Tensor, end: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same for the last slots of R rows alone: their inputs and attended values [R, d], and K and V."""
        if not _one_by_one(inputs):
            attended, key, value = self.attend_prefix(inputs)
            return gather_rows(inputs, row_prefix, end), gather_rows(attended, row_prefix, end), key, value
        key, value = self._split_heads(self.key(inputs)), self._split_heads(self.value(inputs))
        rows = gather_rows(inputs, row_prefix, end)
        query = self._split_heads(self.query(rows))
        own = row_prefix.long() * inputs.shape[1] + end.long() - 1
        return rows, self._attend(query, key, value, row_prefix, end - 1, own), key, value

    def finish(self, inputs: Tensor, attended: Tensor) -> Tensor:
        """All that follows the attention, position by position: [..., d] inputs and attended values -> [..., d]."""
        hidden = self._add_and_normalise(self.output(attended), inputs, self.attention_norm)
        inner = F.gelu(self.inner(hidden))
        return self._add_and_normalise(self.outer(inner), hidden, self.feed_forward_norm)

    def step(self, token: Tensor, cache: ReasoningCache) -> Tensor:
        """One new reasoning token per row, [R, d] -> [R, d]; its K and V are appended to the cache."""
        query, key, value = self._project(token)
        attended = cached_reason_attention(query, key, value, cache, dropout_p=self._attention_dropout_p)
        return self.finish(token, attended.flatten(1))

    @property
    def _attention_dropout_p(self) -> float:
        return self.attention_dropout if self.training else 0.0

    def _add_and_normalise(self, update: Tensor, inputs: Tensor, norm: nn.LayerNorm) -> Tensor:
        dropout_p = self.dropout.p if self.training else 0.0
        return dropout_add_layer_norm(update, inputs, norm.weight, norm.bias, eps=norm.eps, dropout_p=dropout_p)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, row_prefix: Tensor, before: Tensor, own: Tensor | None
    ) -> Tensor:
        """Row r, at slot before[r] of window row_prefix[r], attends to the slots up to its own.

        Its own slot (index own[r] of all slots, None: row r is slot r) is to the kernel a new token, those before it
        the prefix.
        """
        rows = PrefixRows(end=before, row_prefix=row_prefix)
        cache = ReasoningCache.from_prefix(key, value, max_tokens=1, rows=rows)
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        if own is not None:
            key, value = key.index_select(0, own), value.index_select(0, own)
        return cached_reason_attention(query, key, value, cache, dropout_p=self._attention_dropout_p).flatten(1)

    def _split_heads(self, projected: Tensor) -> Tensor:
        """[..., d] -> [..., H, D]."""
        return projected.unflatten(-1, (self.heads, -1))

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: [..., d] -> [..., H, D]."""
        query, key, value = (self._split_heads(linear(inputs)) for linear in (self.query, self.key, self.value))
        return query, key, value


def _one_by_one(inputs: Tensor) -> bool:
    """Whether the attention kernel of the reasoning tokens serves single slots of a prefix better than torch.

    Torch has no fused attention with dropout for CPUs, and none for the last slots of windows alone.
    """
    return (
        inputs.device.type == "cpu" and resolve_backend("cached_reason_attention", inputs.device, inputs.dtype) == "cpu"
    )


def _every_slot(inputs: Tensor) -> tuple[Tensor, Tensor, None]:
    """Every slot of [S, C, d] as a row: its window, and how many slots are before it."""
    windows, slots, _ = inputs.shape
    row_prefix = torch.arange(windows, dtype=torch.int32).repeat_interleave(slots)
    return row_prefix, torch.arange(slots, dtype=torch.int32).repeat(windows), None


class TransformerEncoder(nn.Module):
    """A stack of causal `TransformerLayer`s that encodes windows once and then continues each row by single tokens."""

    def __init__(self, *, layers: int, dim: int, heads: int, ffn: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, ffn, dropout) for _ in range(layers))

    def encode(self, inputs: Tensor, row_prefix: Tensor, end: Tensor) -> EncodedPrefix:
        """Encode right padded windows [S, C, d]; row r stands at slot end[r] - 1 of window row_prefix[r].

        row_prefix, end: int [R]. Only the rows' states are needed from the last layer, so all of it but K and V is
        computed for R rows instead of S·C slots.
        """
        keys: list[Tensor] = []
        values: list[Tensor] = []
        hidden = inputs
        for depth, layer in enumerate(self._each_layer(), start=1):
            if depth == len(self.layers):
                hidden, attended, key, value = layer.attend_rows(hidden, row_prefix, end)
            else:
                attended, key, value = layer.attend_prefix(hidden)
            keys.append(key)
            values.append(value)
            hidden = layer.finish(hidden, attended)
        return EncodedPrefix(hidden, tuple(keys), tuple(values))

    def step(self, token: Tensor, caches: Sequence[ReasoningCache]) -> Tensor:
        """Run one token per row [R, d] through all layers; layer i appends to, and attends over, caches[i]."""
        for layer, cache in zip(self._each_layer(), caches, strict=True):
            token = layer.step(token, cache)
        return token

    def _each_layer(self) -> Iterator[TransformerLayer]:
        return (cast(TransformerLayer, layer) for layer in self.layers)

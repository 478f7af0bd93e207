"""The post-LN Transformer encoder: one pass over the prefix, then one token at a time over its cached K/V."""

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

__all__ = [
    "LAYER_NORM_EPS",
    "EncodedPrefix",
    "TransformerEncoder",
    "TransformerLayer",
    "add_and_normalise",
    "gather_rows",
    "init_weights",
    "window_lengths",
]

LAYER_NORM_EPS = 1e-12
# Numbers that torch normalises in less time than a call of our kernel takes.
_FEW = 1 << 14


@dataclass(frozen=True)
class EncodedPrefix:
    """What encoding S windows of C slots leaves for R rows.

    states: [R, d], the last layer's state where every row stands, its last item as a rule: h_0.
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


def add_and_normalise(
    update: Tensor, inputs: Tensor | None, norm: nn.LayerNorm, *, dropout_p: float = 0.0, output_dropout_p: float = 0.0
) -> Tensor:
    """output_dropout(norm(dropout(update) + inputs)), all [..., d]; inputs None for none."""
    few = update.numel() <= _FEW and update.device.type == "cpu" and not torch.compiler.is_compiling()
    if few and not dropout_p and not output_dropout_p:
        total = update if inputs is None else update + inputs
        if total.dtype == norm.weight.dtype:
            return F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return dropout_add_layer_norm(
        update, inputs, norm.weight, norm.bias, eps=norm.eps, dropout_p=dropout_p, output_dropout_p=output_dropout_p
    )


def gather_rows(slots: Tensor, row_prefix: Tensor, slot: Tensor) -> Tensor:
    """One slot for each row: slots [S, C, d], row_prefix and slot int [R] -> [R, d]."""
    return slots.flatten(0, 1).index_select(0, _index(row_prefix, slot, slots.shape[1]))


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

    def attend_prefix(self, inputs: Tensor, length: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention over [S, C, d]: the attended values [S, C, d], and K and V [S, C, H, D].

        length: int [S], 1 or more: all slots of window s attend to its first length[s] slots. None: every slot attends
        to those up to itself. Windows are right padded, so a real slot never sees padding; what padding slots compute
        is never read.
        """
        query, key, value = self._project(inputs)
        if _one_by_one(inputs) and self._attention_dropout_p > 0:
            attended = self._attend(query.flatten(0, 1), key, value, *_every_slot(inputs, length))
            return attended.unflatten(0, inputs.shape[:2]), key, value
        within = None
        if length is not None:
            within = torch.arange(inputs.shape[1], device=inputs.device) < length[:, None, None, None]
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=within,
            dropout_p=self._attention_dropout_p,
            is_causal=within is None,
        )
        return attended.transpose(1, 2).flatten(-2), key, value

    def attend_rows(
        self, inputs: Tensor, row_prefix: Tensor, end: Tensor, slot: Tensor, length: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same for one slot of each of R rows alone: their inputs and attended values [R, d], and K and V.

        Row r stands at slot[r] and sees the slots [0, end[r]): up to its own, or with `length` all of its window.
        """
        if _sees_all_of_one_window(inputs, end, slot) and self._attention_dropout_p == 0:
            key, value = self._split_heads(self.key(inputs)), self._split_heads(self.value(inputs))
            query = self._split_heads(self.query(inputs[:, -1:]))
            attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
            return inputs[:, -1], attended.flatten(1), key, value
        if not _one_by_one(inputs):
            attended, key, value = self.attend_prefix(inputs, length)
            return gather_rows(inputs, row_prefix, slot), gather_rows(attended, row_prefix, slot), key, value
        key, value = self._split_heads(self.key(inputs)), self._split_heads(self.value(inputs))
        rows = gather_rows(inputs, row_prefix, slot)
        query = self._split_heads(self.query(rows))
        last = _index(row_prefix, end - 1, inputs.shape[1])
        return rows, self._attend(query, key, value, row_prefix, end - 1, last), key, value

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
        return add_and_normalise(update, inputs, norm, dropout_p=self.dropout.p if self.training else 0.0)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, row_prefix: Tensor, before: Tensor, last: Tensor | None
    ) -> Tensor:
        """Row r attends to the slots [0, before[r]] of window row_prefix[r].

        The last of them (index last[r] of all slots, None: row r is slot r) is to the kernel a new token, those before
        it the prefix.
        """
        rows = PrefixRows(end=before, row_prefix=row_prefix)
        cache = ReasoningCache.from_prefix(key, value, max_tokens=1, rows=rows)
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        if last is not None:
            key, value = key.index_select(0, last), value.index_select(0, last)
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


def _sees_all_of_one_window(inputs: Tensor, end: Tensor, slot: Tensor) -> bool:
    """Whether there is one row, at the last slot of one window without padding: a request for one history."""
    if inputs.device.type != "cpu" or len(inputs) != 1 or len(end) != 1 or torch.compiler.is_compiling():
        return False
    return end.item() == inputs.shape[1] == slot.item() + 1


def _index(row_prefix: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Where a slot of a window stands among all slots of all windows, int64."""
    return row_prefix.long() * slots + slot.long()


def _every_slot(inputs: Tensor, length: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Every slot of [S, C, d] as a row, as `_attend` wants it; arguments as those of `attend_prefix`."""
    windows, slots, _ = inputs.shape
    row_prefix = torch.arange(windows, dtype=torch.int32).repeat_interleave(slots)
    if length is None:
        return row_prefix, torch.arange(slots, dtype=torch.int32).repeat(windows), None
    before = (length - 1).repeat_interleave(slots)
    return row_prefix, before, _index(row_prefix, before, slots)


def window_lengths(windows: int, row_prefix: Tensor, end: Tensor) -> Tensor:
    """How many slots of each window its rows see, int [S]; 1 for a window without rows."""
    return end.new_ones(windows).scatter(0, row_prefix.long(), end)


class TransformerEncoder(nn.Module):
    """A stack of `TransformerLayer`s that encodes windows once and then continues each row by single tokens.

    bidirectional: all slots of a window that its rows see attend to each other, instead of to those before them.
    """

    def __init__(
        self, *, layers: int, dim: int, heads: int, ffn: int, dropout: float, bidirectional: bool = False
    ) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.layers = nn.ModuleList(TransformerLayer(dim, heads, ffn, dropout) for _ in range(layers))

    def encode(self, inputs: Tensor, row_prefix: Tensor, end: Tensor, slot: Tensor | None = None) -> EncodedPrefix:
        """Encode right padded windows [S, C, d]; row r sees the slots [0, end[r]) of window row_prefix[r].

        row_prefix, end: int [R]; in a bidirectional encoder the rows of one window see the same slots. slot: int [R],
        where the rows stand, for a bidirectional encoder; None: at the last slot that they see. Only the rows' states
        are needed from the last layer, so all of it but K and V is computed for R rows instead of S·C slots.
        """
        length = window_lengths(len(inputs), row_prefix, end) if self.bidirectional else None
        slot = end - 1 if slot is None else slot
        keys: list[Tensor] = []
        values: list[Tensor] = []
        hidden = inputs
        for depth, layer in enumerate(self._each_layer(), start=1):
            if depth == len(self.layers):
                hidden, attended, key, value = layer.attend_rows(hidden, row_prefix, end, slot, length)
            else:
                attended, key, value = layer.attend_prefix(hidden, length)
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

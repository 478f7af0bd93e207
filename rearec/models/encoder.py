"""The post-LN Transformer encoder: one pass over the prefix, then one token at a time over its cached K/V."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec.models.item_table import SplitEmbedding
from rearec_kernels import (
    MaskRows,
    PrefixRows,
    ReasoningCache,
    cached_reason_attention,
    dropout_add_layer_norm,
    resolve_backend,
)

if TYPE_CHECKING:
    from rearec.data.batch import Part

__all__ = [
    "LAYER_NORM_EPS",
    "EncodedPrefix",
    "TransformerEncoder",
    "TransformerLayer",
    "WindowRows",
    "add_and_normalise",
    "init_weights",
]

LAYER_NORM_EPS = 1e-12
INIT_STD = 0.02
# Numbers that torch normalises in less time than a call of our kernel takes.
_FEW = 1 << 14


class WindowRows(NamedTuple):
    """Where R rows stand: row r at slot[r] of window row_prefix[r], of which it sees the slots [0, end[r]); int [R].

    part: where windows and rows stand in a batch that several processes share: dropout drops what it would there.
    """

    row_prefix: Tensor
    end: Tensor
    slot: Tensor
    part: Part | None = None

    @property
    def mask_rows(self) -> MaskRows | None:
        """The rows' numbers for dropout."""
        return None if self.part is None else self.part.rows

    def mask_slots(self, slots: int) -> MaskRows | None:
        """Those of all slots of all windows [S, C], C being `slots`."""
        return None if self.part is None else self.part.slots(slots)

    def gather(self, slots: Tensor) -> Tensor:
        """What stands where the rows do: [S, C, d] -> [R, d]."""
        return slots.flatten(0, 1).index_select(0, _index(self.row_prefix, self.slot, slots.shape[1]))

    def window_lengths(self, windows: int) -> Tensor:
        """How many slots of each of S windows its rows see, int [S]; 1 for a window without rows."""
        return self.end.new_ones(windows).scatter(0, self.row_prefix.long(), self.end)


class _Sight(NamedTuple):
    """What rows attend to, as our kernel takes it: the last slot of each is a new token, those before it the prefix.

    before: the slots before the last. last: int64 [R], where the last stands among all slots of all windows; None where
    the rows are all slots of all windows, each its own last. mask_rows: their numbers for dropout.
    """

    before: PrefixRows
    last: Tensor | None
    mask_rows: MaskRows | None


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
        nn.init.normal_(module.weight, mean=0.0, std=INIT_STD)
    if isinstance(module, SplitEmbedding):
        module.draw(INIT_STD)
    if isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
    if isinstance(module, (nn.Linear, nn.LayerNorm)):
        nn.init.zeros_(module.bias)


def add_and_normalise(
    update: Tensor,
    inputs: Tensor | None,
    norm: nn.LayerNorm,
    *,
    dropout_p: float = 0.0,
    output_dropout_p: float = 0.0,
    mask_rows: MaskRows | None = None,
) -> Tensor:
    """output_dropout(norm(dropout(update) + inputs)), all [..., d]; inputs None for none.

    mask_rows: the rows' numbers for dropout. Not on a GPU: no kernel of ours serves it there, and torch would have to
    draw the masks of all rows of all processes.
    """
    if update.device.type != "cpu":
        mask_rows = None
    few = update.numel() <= _FEW and update.device.type == "cpu" and not torch.compiler.is_compiling()
    if few and not dropout_p and not output_dropout_p:
        total = update if inputs is None else update + inputs
        if total.dtype == norm.weight.dtype:
            return F.layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    return dropout_add_layer_norm(
        update, inputs, norm.weight, norm.bias, eps=norm.eps, dropout_p=dropout_p, output_dropout_p=output_dropout_p,
        mask_rows=mask_rows,
    )  # fmt: skip


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

    def attend_prefix(
        self, inputs: Tensor, length: Tensor | None = None, one_by_one: _Sight | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention over [S, C, d]: the attended values [S, C, d], and K and V [S, C, H, D].

        length: int [S], 1 or more: all slots of window s attend to its first length[s] slots. None: every slot attends
        to those up to itself. Windows are right padded, so a real slot never sees padding; what padding slots compute
        is never read. one_by_one: the same said of every slot, to attend slot by slot through our kernel.
        """
        query, key, value = self._project(inputs)
        if one_by_one is not None:
            attended = self._attend(query.flatten(0, 1), key, value, one_by_one)
            return attended.unflatten(0, inputs.shape[:2]), key, value
        within = None
        if length is not None:
            within = torch.arange(inputs.shape[1], device=inputs.device) < length[:, None, None, None]
        attended = F.scaled_dot_product_attention(
            query.transpose(1, 2),
            key.transpose(1, 2),
            value.transpose(1, 2),
            attn_mask=within,
            dropout_p=self.attention_dropout_p,
            is_causal=within is None,
        )
        return attended.transpose(1, 2).flatten(-2), key, value

    def attend_rows(
        self, inputs: Tensor, rows: WindowRows, length: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same for R rows alone, where they stand: their inputs and attended values [R, d], and K and V.

        A row sees the slots up to its own, or with `length` all of its window that its rows see.
        """
        if _sees_all_of_one_window(inputs, rows) and self.attention_dropout_p == 0:
            key, value = self._split_heads(self.key(inputs)), self._split_heads(self.value(inputs))
            query = self._split_heads(self.query(inputs[:, -1:]))
            attended = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
            return inputs[:, -1], attended.flatten(1), key, value
        if not _prefers_one_by_one(inputs):
            attended, key, value = self.attend_prefix(inputs, length)
            return rows.gather(inputs), rows.gather(attended), key, value
        key, value = self._split_heads(self.key(inputs)), self._split_heads(self.value(inputs))
        own = rows.gather(inputs)
        before = rows.end - 1
        sight = _Sight(
            PrefixRows(end=before, row_prefix=rows.row_prefix),
            _index(rows.row_prefix, before, inputs.shape[1]),
            rows.mask_rows,
        )
        return own, self._attend(self._split_heads(self.query(own)), key, value, sight), key, value

    def finish(self, inputs: Tensor, attended: Tensor, mask_rows: MaskRows | None = None) -> Tensor:
        """All that follows the attention, position by position: [..., d] inputs and attended values -> [..., d].

        mask_rows: the positions' numbers for dropout, here and in `step`.
        """
        hidden = self._add_and_normalise(self.output(attended), inputs, self.attention_norm, mask_rows)
        inner = F.gelu(self.inner(hidden))
        return self._add_and_normalise(self.outer(inner), hidden, self.feed_forward_norm, mask_rows)

    def step(self, token: Tensor, cache: ReasoningCache, mask_rows: MaskRows | None = None) -> Tensor:
        """One new reasoning token per row, [R, d] -> [R, d]; its K and V are appended to the cache."""
        query, key, value = self._project(token)
        attended = cached_reason_attention(
            query, key, value, cache, dropout_p=self.attention_dropout_p, mask_rows=mask_rows
        )
        return self.finish(token, attended.flatten(1), mask_rows)

    def append(self, item: Tensor, key: Tensor, value: Tensor, slot: int) -> Tensor:
        """One more item behind those of one window, [1, d] -> its state [1, d], in evaluation mode.

        key, value: [1, C, H, D], of which the slots before `slot` hold those of the items before it; its own are
        written there.
        """
        query, key[:, slot], value[:, slot] = self._project(item)
        seen_key, seen_value = (x[:, : slot + 1].transpose(1, 2) for x in (key, value))
        attended = F.scaled_dot_product_attention(query[:, :, None], seen_key, seen_value)
        return self.finish(item, attended.flatten(1))

    @property
    def attention_dropout_p(self) -> float:
        """Of the attention's probabilities, as the layer drops them now."""
        return self.attention_dropout if self.training else 0.0

    def _add_and_normalise(
        self, update: Tensor, inputs: Tensor, norm: nn.LayerNorm, mask_rows: MaskRows | None
    ) -> Tensor:
        dropout_p = self.dropout.p if self.training else 0.0
        return add_and_normalise(update, inputs, norm, dropout_p=dropout_p, mask_rows=mask_rows)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, sight: _Sight) -> Tensor:
        """Rows [R, H, D] over the slots [S, C, H, D] that they see -> [R, d]."""
        cache = ReasoningCache.from_prefix(key, value, max_tokens=1, rows=sight.before)
        key, value = key.flatten(0, 1), value.flatten(0, 1)
        if sight.last is not None:
            key, value = key.index_select(0, sight.last), value.index_select(0, sight.last)
        attended = cached_reason_attention(
            query, key, value, cache, dropout_p=self.attention_dropout_p, mask_rows=sight.mask_rows
        )
        return attended.flatten(1)

    def _split_heads(self, projected: Tensor) -> Tensor:
        """[..., d] -> [..., H, D]."""
        return projected.unflatten(-1, (self.heads, -1))

    def _project(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values: [..., d] -> [..., H, D]."""
        query, key, value = (self._split_heads(linear(inputs)) for linear in (self.query, self.key, self.value))
        return query, key, value


def _prefers_one_by_one(inputs: Tensor) -> bool:
    """Whether the attention kernel of the reasoning tokens serves single slots of a prefix better than torch.

    Torch has no fused attention with dropout for CPUs, and none for the last slots of windows alone.
    """
    return (
        inputs.device.type == "cpu" and resolve_backend("cached_reason_attention", inputs.device, inputs.dtype) == "cpu"
    )


def _sees_all_of_one_window(inputs: Tensor, rows: WindowRows) -> bool:
    """Whether there is one row, at the last slot of one window without padding: a request for one history."""
    if inputs.device.type != "cpu" or len(inputs) != 1 or len(rows.end) != 1 or torch.compiler.is_compiling():
        return False
    return rows.end.item() == inputs.shape[1] == rows.slot.item() + 1


def _index(row_prefix: Tensor, slot: Tensor, slots: int) -> Tensor:
    """Where a slot of a window stands among all slots of all windows, int64."""
    return row_prefix.long() * slots + slot.long()


def _sight_of_every_slot(inputs: Tensor, length: Tensor | None, mask_rows: MaskRows | None) -> _Sight:
    """What every slot of [S, C, d] attends to; inputs and length as those of `attend_prefix`."""
    windows, slots, _ = inputs.shape
    row_prefix = torch.arange(windows, dtype=torch.int32).repeat_interleave(slots)
    if length is None:
        before = torch.arange(slots, dtype=torch.int32).repeat(windows)
        return _Sight(PrefixRows(end=before, row_prefix=row_prefix), None, mask_rows)
    before = (length - 1).repeat_interleave(slots)
    return _Sight(PrefixRows(end=before, row_prefix=row_prefix), _index(row_prefix, before, slots), mask_rows)


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

    def encode(self, inputs: Tensor, rows: WindowRows) -> EncodedPrefix:
        """Encode right padded windows [S, C, d] for R rows.

        In a bidirectional encoder the rows of one window see the same slots of it, and may stand at any of them; else
        each stands at the last slot that it sees. Only the rows' states are needed from the last layer, so all of it
        but K and V is computed for R rows instead of S·C slots.
        """
        length = rows.window_lengths(len(inputs)) if self.bidirectional else None
        mask_rows = rows.mask_slots(inputs.shape[1])
        every_slot: _Sight | None = None
        keys: list[Tensor] = []
        values: list[Tensor] = []
        hidden = inputs
        for depth, layer in enumerate(self._each_layer(), start=1):
            if depth == len(self.layers):
                hidden, attended, key, value = layer.attend_rows(hidden, rows, length)
                mask_rows = rows.mask_rows
            else:
                one_by_one = layer.attention_dropout_p > 0 and _prefers_one_by_one(hidden)
                if one_by_one and every_slot is None:
                    every_slot = _sight_of_every_slot(hidden, length, mask_rows)
                attended, key, value = layer.attend_prefix(hidden, length, every_slot if one_by_one else None)
            keys.append(key)
            values.append(value)
            hidden = layer.finish(hidden, attended, mask_rows)
        return EncodedPrefix(hidden, tuple(keys), tuple(values))

    def append(self, item: Tensor, prefix: EncodedPrefix, slot: int) -> EncodedPrefix:
        """What `encode` would make of one window with one more item, [1, d], at its slot; not of a bidirectional one.

        prefix: that of the items before it, whose keys and values have room; they are written in place.
        """
        for layer, key, value in zip(self._each_layer(), prefix.keys, prefix.values, strict=True):
            item = layer.append(item, key, value, slot)
        return EncodedPrefix(item, prefix.keys, prefix.values)

    def step(self, token: Tensor, caches: Sequence[ReasoningCache], mask_rows: MaskRows | None = None) -> Tensor:
        """Run one token per row [R, d] through all layers; layer i appends to, and attends over, caches[i].

        mask_rows: the rows' numbers for dropout.
        """
        for layer, cache in zip(self._each_layer(), caches, strict=True):
            token = layer.step(token, cache, mask_rows)
        return token

    def _each_layer(self) -> Iterator[TransformerLayer]:
        return (cast(TransformerLayer, layer) for layer in self.layers)

"""What the backbones of the paper have in common: positions, input LayerNorm, a Transformer over windows of items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rearec.models.backbone import Backbone
from rearec.models.config import ReaRecConfig
from rearec.models.encoder import (
    LAYER_NORM_EPS,
    EncodedPrefix,
    TransformerEncoder,
    WindowRows,
    add_and_normalise,
)
from rearec.models.item_table import ItemTable, embed
from rearec_kernels import MaskRows, PrefixRows, ReasoningCache

if TYPE_CHECKING:
    from rearec.data.batch import Batch, Part

__all__ = ["TransformerBackbone"]


class TransformerBackbone(Backbone):
    """Learned absolute positions and a post-LN Transformer (paper, section 4.1); subclasses bring the item table.

    The first slot of a window has position 0. Reasoning tokens pass through the same input LayerNorm and dropout as
    items.

    Args:
        config: settings.
        slots: longest window, None for config.max_len.
        bidirectional: as in `TransformerEncoder`.
    """

    def __init__(self, config: ReaRecConfig, *, slots: int | None = None, bidirectional: bool = False) -> None:
        super().__init__()
        self.position_embedding = nn.Embedding(config.max_len if slots is None else slots, config.dim)
        self.input_norm = nn.LayerNorm(config.dim, eps=LAYER_NORM_EPS)
        self.input_dropout = nn.Dropout(config.input_dropout)
        self.encoder = TransformerEncoder(
            layers=config.layers,
            dim=config.dim,
            heads=config.heads,
            ffn=config.ffn,
            dropout=config.dropout,
            bidirectional=bidirectional,
        )

    def encode(
        self,
        items: Tensor,
        row_prefix: Tensor,
        end: Tensor,
        table: ItemTable | None = None,
        *,
        part: Part | None = None,
    ) -> EncodedPrefix:
        """As `Backbone.encode`; makes the table where there is none. part: as in `WindowRows`.

        Raises ValueError for windows longer than ``max_len`` and, on CPU tensors, for a row that sees no item and for
        rows of a bidirectional encoder that see different parts of one window.
        """
        rows = WindowRows(row_prefix, end, end - 1, part)
        self._check(items, rows)
        table = self.item_tables()[0] if table is None else table
        return self._encode(embed(items, table), rows)

    def encode_batch(self, batch: Batch, table: ItemTable) -> EncodedPrefix:
        """As `Backbone.encode_batch`; of a part of a batch, dropout drops what it would in the whole of it."""
        own_way = type(self).encode is not TransformerBackbone.encode  # of a subclass
        if batch.part is None or batch.slot is not None or own_way:
            prefix: EncodedPrefix = super().encode_batch(batch, table)
            return prefix
        return self.encode(batch.items, batch.row_prefix, batch.end, table, part=batch.part)

    def placed(self, item: Tensor, slot: int, table: ItemTable) -> Tensor:
        """An item, int64 [1], at its slot of a window, not yet normalised, [1, d]."""
        return embed(item, table) + self.position_embedding.weight[slot]

    def append(self, item: Tensor, prefix: EncodedPrefix, slot: int) -> EncodedPrefix:
        """What `encode` would make of one window with one more item, as it is `placed`, in evaluation mode.

        As `TransformerEncoder.append`. Of a causal encoder, whose other slots do not see it.
        """
        return self.encoder.append(self._normalise(item, None), prefix, slot)

    def reason(self, prefix: EncodedPrefix, row_prefix: Tensor, end: Tensor, steps: int) -> Callable[[Tensor], Tensor]:
        """As `Backbone.reason`."""
        return self._reason(prefix, PrefixRows(end=end, row_prefix=row_prefix), steps)

    def reason_batch(self, prefix: EncodedPrefix, batch: Batch, steps: int) -> Callable[[Tensor], Tensor]:
        """As `Backbone.reason_batch`, with the rows that the batch keeps; of a part of a batch as `encode_batch`."""
        if type(self).reason is not TransformerBackbone.reason:  # a subclass that reasons in its own way
            return super().reason_batch(prefix, batch, steps)
        return self._reason(prefix, batch.rows, steps, None if batch.part is None else batch.part.rows)

    def step(self, token: Tensor, caches: Sequence[ReasoningCache], *, mask_rows: MaskRows | None = None) -> Tensor:
        """One reasoning token per row, not yet normalised, [R, d] -> its state [R, d]; one cache per layer.

        mask_rows: which rows of a larger batch these are, for dropout; None: they are all rows.
        """
        return self.encoder.step(self._normalise(token, mask_rows), caches, mask_rows)

    def _reason(
        self, prefix: EncodedPrefix, rows: PrefixRows, steps: int, mask_rows: MaskRows | None = None
    ) -> Callable[[Tensor], Tensor]:
        caches = [
            ReasoningCache.from_prefix(key, value, max_tokens=steps, rows=rows)
            for key, value in zip(prefix.keys, prefix.values, strict=True)
        ]
        if mask_rows is None:
            return lambda token: self.step(token, caches)
        return lambda token: self.step(token, caches, mask_rows=mask_rows)

    def _check(self, items: Tensor, rows: WindowRows) -> None:
        max_len = self.position_embedding.num_embeddings
        if items.ndim != 2 or not 1 <= items.shape[1] <= max_len:
            raise ValueError(f"items: got shape {tuple(items.shape)}, expected [windows, 1..{max_len} slots]")
        row_prefix, end = rows.row_prefix, rows.end
        if row_prefix.ndim != 1 or row_prefix.shape != end.shape:
            raise ValueError(
                f"row_prefix and end: got shapes {tuple(row_prefix.shape)} and {tuple(end.shape)}, expected [rows] each"
            )
        # a row without items would silently read the window before its own; torch.export cannot look at values
        if end.device.type == "cpu" and end.numel() and not torch.compiler.is_exporting():
            low, high = int(end.min()), int(end.max())
            if low < 1 or high > items.shape[1]:
                raise ValueError(f"end: got values {low}..{high}, expected 1..{items.shape[1]} (items that a row sees)")
            if self.encoder.bidirectional:
                length = rows.window_lengths(len(items))
                if not torch.equal(length.index_select(0, row_prefix), end):
                    raise ValueError("end: differs between rows of one window, expected a window for each such row")

    def _encode(self, embedded: Tensor, rows: WindowRows) -> EncodedPrefix:
        """Encode embedded windows [S, C, d]."""
        slots = embedded.shape[1]
        inputs = self._normalise(embedded + self.position_embedding.weight[:slots], rows.mask_slots(slots))
        return self.encoder.encode(inputs, rows)

    def _normalise(self, inputs: Tensor, mask_rows: MaskRows | None) -> Tensor:
        dropout_p = self.input_dropout.p if self.training else 0.0
        return add_and_normalise(inputs, None, self.input_norm, output_dropout_p=dropout_p, mask_rows=mask_rows)

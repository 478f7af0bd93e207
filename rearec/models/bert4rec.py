"""BERT4Rec as ReaRec uses it: a bidirectional Transformer over item embeddings, which also score (arXiv 1904.06690)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec.data.batch import MASK_ID, Batch
from rearec.models.config import ReaRecConfig
from rearec.models.encoder import EncodedPrefix, WindowRows, init_weights
from rearec.models.item_table import ItemTable, embed, item_embedding, table_of
from rearec.models.transformer import TransformerBackbone

__all__ = ["BERT4Rec"]


class BERT4Rec(TransformerBackbone):
    """The items that a row sees attend to each other, reasoning tokens to them and to earlier tokens.

    Items never see tokens, so that their K/V stay valid (prefix mask). What an item's state is depends on where its row
    ends: every row has a window of its own.

    With the training task ``next-item`` (the paper's) h_0 is the state of the last item. With ``cloze`` it is that of a
    mask token, which stands for an item to be told: in training somewhere among the items (batches with a `slot`, whose
    rows share their window and its masks), else behind the row's last item, where this class puts it. The mask takes no
    room of the history, there is one more position than ``max_len``.

    rows: as of `SASRec`.
    """

    shares_windows = False

    def __init__(self, config: ReaRecConfig, rows: range | None = None) -> None:
        masks = config.training_task == "cloze"
        super().__init__(config, slots=config.max_len + masks, bidirectional=True)
        self.item_embedding = item_embedding(config.num_items, config.dim, rows)
        self.mask_embedding = nn.Embedding(1, config.dim) if masks else None
        self.apply(init_weights)

    def item_table(self) -> ItemTable:
        """The item embeddings, [N, d]."""
        return table_of(self.item_embedding)

    def arrange(self, batch: Batch) -> Batch:
        """As `Backbone.arrange`; with the task ``cloze``, rows that stand at no mask get one behind their last item."""
        if self.mask_embedding is None:
            return super().arrange(batch)
        return batch if batch.slot is not None else _masked_behind(super().arrange(batch))

    def encode_batch(self, batch: Batch, table: ItemTable) -> EncodedPrefix:
        """As `Backbone.encode_batch`, and of masked items where the task is ``cloze``.

        Raises ValueError as `encode` does and, on CPU tensors, for a row that stands at no mask among what it sees.
        """
        if self.mask_embedding is None or batch.slot is None:
            return super().encode_batch(batch, table)
        rows = WindowRows(batch.row_prefix, batch.end, batch.slot, batch.part)
        self._check(batch.items, rows)
        masked = batch.items == MASK_ID
        if batch.slot.device.type == "cpu":
            _check_slots(masked, rows)
        embedded = embed(batch.items.masked_fill(masked, 0), table)
        embedded = torch.where(masked[..., None], self.mask_embedding.weight, embedded)
        return self._encode(embedded, rows)


def _check_slots(masked: Tensor, rows: WindowRows) -> None:
    slot, end = rows.slot, rows.end
    seen = slot.shape == end.shape and bool(((slot >= 0) & (slot < end)).all())
    if not seen or not masked[rows.row_prefix.long(), slot.long()].all():
        raise ValueError("slot: expected for every row a slot that it sees and that holds the mask")


def _masked_behind(batch: Batch) -> Batch:
    """The same rows, row r having window r for itself, each at a mask behind its last item."""
    items = F.pad(batch.items, (0, 1)).scatter(1, batch.end.long()[:, None], MASK_ID)
    seen = batch.end + 1
    return replace(batch, items=items, lengths=seen, end=seen, slot=batch.end)

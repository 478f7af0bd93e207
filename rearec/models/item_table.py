"""The table of item embeddings, which a process has as a whole, or some rows of it, the others having the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rearec.distributed import look_up
from rearec_kernels import CatalogShard

__all__ = ["ItemTable", "SplitEmbedding", "detached", "embed", "held", "item_embedding", "split_embedding", "table_of"]

# [N, d]; or this process's rows of it, which stand for all of them in a call that every process makes.
ItemTable: TypeAlias = Tensor | CatalogShard

# Numbers that are drawn at a time for rows of which this process holds a part. Torch draws normal numbers by sixteens,
# so that those of a large tensor are those of its parts as long as these are made of sixteens.
DRAWN = 1 << 20
SIXTEEN = 16


def item_embedding(num_items: int, dim: int, rows: range | None = None) -> nn.Embedding | SplitEmbedding:
    """The embeddings of a catalogue's items; rows: those that this process is to hold, None for all."""
    return nn.Embedding(num_items, dim) if rows is None else SplitEmbedding(num_items, dim, rows)


def table_of(embedding: nn.Embedding | SplitEmbedding) -> ItemTable:
    """Its table, with gradients."""
    return embedding.weight if isinstance(embedding, nn.Embedding) else embedding.shard


def embed(items: Tensor, table: ItemTable) -> Tensor:
    """The vectors [..., d] of items [...]; of a table that several processes hold, each calls it with its own items."""
    return F.embedding(items, table) if isinstance(table, Tensor) else look_up(items, table)


def held(table: ItemTable) -> Tensor:
    """The rows of a table that are here: [N, d], or [n, d] of one that several processes hold."""
    return table if isinstance(table, Tensor) else table.table


def detached(table: ItemTable) -> ItemTable:
    """The table without gradients."""
    return table.detach() if isinstance(table, Tensor) else replace(table, weight=table.table.detach())


def split_embedding(module: nn.Module) -> SplitEmbedding | None:
    """The embeddings of a model whose item table several processes hold; None where this one has all of it."""
    return next((part for part in module.modules() if isinstance(part, SplitEmbedding)), None)


class SplitEmbedding(nn.Module):
    """Some rows of an item table: parameter ``weight`` [n, d], under the name that the whole table would have.

    The numbers that it begins with are those rows of what ``nn.Embedding`` would draw, and torch's generator is left
    as that would leave it; not on a GPU, where torch draws otherwise. ``load_state_dict`` takes the whole table too.

    Args:
        num_items: N, of the whole table.
        dim: d.
        rows: which of them are here, at least one.
    """

    def __init__(self, num_items: int, dim: int, rows: range) -> None:
        super().__init__()
        self.num_items = num_items
        self.rows = rows
        self.weight = nn.Parameter(torch.empty(len(rows), dim))
        self.draw(1.0)
        self.register_load_state_dict_pre_hook(_take_own_rows)

    @property
    def shard(self) -> CatalogShard:
        """What stands for the whole table in the calls of `rearec_kernels`, of torch's default process group."""
        return CatalogShard(self.weight, None, self.rows.start, self.num_items)

    @property
    def elsewhere(self) -> int:
        """How many numbers of the table other processes have."""
        return (self.num_items - len(self.rows)) * self.weight.shape[1]

    @torch.no_grad()
    def draw(self, std: float) -> None:
        """Normal numbers of mean 0, as they would come for the whole table."""
        dim = self.weight.shape[1]
        first, last, total = self.rows.start * dim, self.rows.stop * dim, self.num_items * dim
        own = self.weight.view(-1)
        begin = 0
        while begin < total:
            # fewer than sixteen are drawn in another way: never alone behind others
            end = total if total - begin < DRAWN + SIXTEEN else begin + DRAWN
            drawn = own.new_empty(end - begin).normal_(0.0, std)
            low, high = max(begin, first), min(end, last)
            if low < high:
                own[low - first : high - first] = drawn[low - begin : high - begin]
            begin = end

    def extra_repr(self) -> str:
        """The whole, and the part."""
        return f"{self.num_items}, {self.weight.shape[1]}, rows {self.rows.start}..{self.rows.stop - 1}"


def _take_own_rows(module: SplitEmbedding, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before its state is loaded: of a whole table this process's rows."""
    table = state.get(f"{prefix}weight")
    if table is not None and len(table) == module.num_items:
        state[f"{prefix}weight"] = table[module.rows.start : module.rows.stop]

"""A catalogue that is split by rows over the processes of a group, as one of them holds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rearec_kernels.arguments import as_int, check_floating, describe


class Prepared(Protocol):
    """A `PreparedCatalog`, as far as a shard knows it."""

    weight: Tensor


@dataclass(frozen=True, eq=False)
class CatalogShard:
    """One rank's rows of an item table that no process holds as a whole; stands where `weight` does.

    `annealed_cross_entropy`, `ensemble_reasoning_loss`, `catalog_topk` and `catalog_rank` take it. Such a call is
    collective: every rank of the group makes it, in the same order, with the rows (of `hidden`, targets, ...) that are
    its own; their numbers may differ, and be 0. Items are the ids of the whole catalogue. What is returned, and the
    gradients, are those of one call with all rows and the whole table.

    What a call sends, in bytes that each rank hands to torch.distributed, for G ranks with at most P rows each, T
    states of width d, R = G P (or fewer) rows together, s bytes per number of `hidden`, and 4 per number of sums (8 if
    an operand is float64). None of it grows with the number of items.

    - Always: one all-gather of 72 bytes, in which the ranks tell each other their sizes and whether they agree.
    - A loss: all-gathers of the states, P T d s, and of their targets, 8 P (1 + M), with soft targets of their mass as
      well, P M or P T M numbers; one all-reduce of maxima and one of sums; one reduce-scatter of the gradients of the
      states, 4 G P T d, where any rank needs them. Maxima and sums are 4 R T and 8 R T bytes for
      `annealed_cross_entropy`, 4 R (T + 1) and 8 R (T + 1) for `ensemble_reasoning_loss`. With reduction "none" the
      backward pass begins with an all-gather of the upstream gradients, 4 P T.
    - `catalog_topk`: an all-gather of the states, P d s, and one all-to-all of min(k, items of the largest shard)
      candidates per row and rank, 12 bytes each.
    - `catalog_rank`: all-gathers of the states, P d s, of the targets, 8 P, and of `target_bonus` if there is one,
      4 P; one all-reduce of the targets' scores, 4 R, and one reduce-scatter of counts, 4 G P.
    - `exclude` per row adds two all-gathers, 8 P and 8 times the most items that a rank excludes.

    Attributes:
        weight: [n, d], this rank's rows, at least one; or, for retrieval, a catalogue prepared of them.
        group: the process group, None for the default one. Gloo for CPU tensors, NCCL for those of a GPU.
        first_item: the id of the first of the rows.
        num_items: items of the whole catalogue. The shards of the group tile [0, num_items), in any order; every call
            looks at that.

    Raises:
        TypeError, ValueError: every rank raises one if any does: a rank refuses its arguments, the ranks' differ where
            they have to agree, shards overlap or leave a gap, or there is no process group.

    Examples:
        >>> import tempfile, torch.distributed as dist
        >>> store = dist.FileStore(tempfile.mkstemp()[1], 1)
        >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)  # or `torchrun`, of any number
        >>> weight = torch.zeros(8, 4, requires_grad=True)
        >>> shard = CatalogShard.of(weight)
        >>> shard.first_item, shard.num_items
        (0, 8)
        >>> loss = annealed_cross_entropy(torch.zeros(2, 3, 4), shard, torch.tensor([5, 0]), temperature=1.0)
        >>> round(loss.item() / 3, 4)
        2.0794
        >>> catalog_topk(torch.ones(1, 4), shard, 2)[1]
        tensor([[0, 1]])
        >>> dist.destroy_process_group()
    """

    weight: Tensor | Prepared
    group: dist.ProcessGroup | None
    first_item: int
    num_items: int

    def __post_init__(self) -> None:
        if not isinstance(getattr(self.weight, "weight", self.weight), Tensor):
            raise TypeError(
                f"CatalogShard: weight must be a tensor [n, d] or a prepared catalogue, got {describe(self.weight)}"
            )
        as_int("CatalogShard", "first_item", self.first_item, least=0)
        as_int("CatalogShard", "num_items", self.num_items, least=1)

    @staticmethod
    def of(weight: Tensor, group: dist.ProcessGroup | None = None) -> CatalogShard:
        """The shard of this rank where the ranks of the group hold consecutive rows in their order; collective.

        Args:
            weight: [n, d], this rank's rows; n may differ between ranks.
            group: as the attribute.

        Raises:
            TypeError, ValueError: weight is no such tensor; there is no process group, or this process is not in it.
        """
        check_floating("CatalogShard.of", "weight", weight, "[n, d]")
        rank = rank_in(group)
        counts = weight.new_empty(dist.get_world_size(group), dtype=torch.int64)
        all_gather(counts, torch.full_like(counts[:1], weight.shape[0]), group)
        sizes = counts.tolist()
        return CatalogShard(weight, group, sum(sizes[:rank]), sum(sizes))

    @property
    def table(self) -> Tensor:
        """[n, d], also where it is prepared."""
        return self.weight if isinstance(self.weight, Tensor) else self.weight.weight


def rank_in(group: dist.ProcessGroup | None) -> int:
    """This process's rank in the group.

    Raises:
        ValueError: there is no process group, or this process is not in it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError(
            "CatalogShard: there is no process group; call torch.distributed.init_process_group first (or use torchrun)"
        )
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("CatalogShard: this process is not in the shard's group")
    return rank


def all_gather(result: Tensor, own: Tensor, group: dist.ProcessGroup | None) -> None:
    """torch's, whose name is another from 2.13 on."""
    (getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor)(result, own, group=group)


def reduce_scatter(result: Tensor, everyone: Tensor, group: dist.ProcessGroup | None) -> None:
    """As `all_gather`."""
    (getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)(result, everyone, group=group)

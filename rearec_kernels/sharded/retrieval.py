"""Top-k and rank over a sharded catalogue: every rank's own items for all rows, then one exchange with a row's rank."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch._compile import _disable_dynamo  # torch.compiler.disable, but for what that imports at once

from rearec_kernels.arguments import checks_values, refuse_tangents
from rearec_kernels.sharded.meeting import Meeting
from rearec_kernels.shards import CatalogShard


class Exclusion(NamedTuple):
    """Items that are barred, by the ids of the whole catalogue or of a slice: for all rows, or per row."""

    offsets: Tensor | None
    items: Tensor | None

    def of_rows(self, rows: Tensor) -> Exclusion:
        """For some of the rows, int64."""
        if self.offsets is None or self.items is None:
            return self
        counts = self.offsets.diff()[rows]
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        moved = torch.repeat_interleave(self.offsets[:-1][rows] - offsets[:-1], counts)
        return Exclusion(offsets, self.items[moved + torch.arange(moved.shape[0], device=moved.device)])


TopK = Callable[[Tensor, int, Exclusion], tuple[Tensor, Tensor]]  # states, k
Rank = Callable[[Tensor, Tensor, Exclusion, Tensor | None, Tensor | None], tuple[Tensor, Tensor]]
# states, targets, bonuses, scores to compare with -> ranks, what was compared with


@_disable_dynamo
def catalog_topk(
    shard: CatalogShard, hidden: Tensor, k: int, exclude: Exclusion, precision: str, search: TopK
) -> tuple[Tensor, Tensor]:
    """Scores and items [R, k] of this rank's rows; `search` does it in the slice."""
    op = "catalog_topk"
    meeting = _meet(op, shard, hidden, exclude, {"k": k, "precision": precision})
    kept = min(k, max(x.items for x in meeting.headers))
    everyone = meeting.gather(hidden)
    scores, items = search(everyone, kept, _in_slice(meeting, shard, exclude))
    items = torch.where(items >= 0, items + shard.first_item, -1)
    words = torch.cat([scores.contiguous().view(torch.int32), items.view(torch.int32)], 1)
    in_order = sorted(range(len(meeting.rows)), key=lambda rank: meeting.headers[rank].first_item)
    words = meeting.to_owners(words)[in_order].transpose(0, 1)
    # A stable sort of slices in the order of their items: ties keep it.
    scores, items = (x.clone(memory_format=torch.contiguous_format) for x in words.tensor_split([kept], 2))
    scores, order = scores.view(torch.float32).flatten(1).sort(dim=1, descending=True, stable=True)
    items = items.view(torch.int64).flatten(1).gather(1, order)
    missing = (0, max(0, k - scores.shape[1]))
    pad = torch.nn.functional.pad
    return pad(scores[:, :k], missing, value=float("-inf")), pad(items[:, :k], missing, value=-1)


@_disable_dynamo
def catalog_rank(
    shard: CatalogShard,
    hidden: Tensor,
    target: Tensor,
    exclude: Exclusion,
    bonus: Tensor | None,
    precision: str,
    rank: Rank,
) -> Tensor:
    """The ranks [R] of this rank's targets; `rank` does it in the slice, for targets that are there, or for scores."""
    facts = {"precision": precision, "the use of target_bonus": bonus is not None}
    meeting = _meet("catalog_rank", shard, hidden, exclude, facts)
    everyone = meeting.gather(hidden)
    bonus = None if bonus is None else meeting.gather(bonus.float())
    local = meeting.gather(target.long()) - shard.first_item
    barred = _in_slice(meeting, shard, exclude)
    ranks, scores = torch.zeros((2, everyone.shape[0]), dtype=torch.float32, device=everyone.device)
    is_here = (local >= 0) & (local < shard.table.shape[0])
    here, elsewhere = (x.nonzero().squeeze(1) for x in (is_here, ~is_here))
    # The score of a target comes from the products of its own slice.
    of_rows = None if bonus is None else bonus[here]
    ranks[here], scores[here] = rank(everyone[here], local[here], barred.of_rows(here), of_rows, None)
    meeting.sum(scores)
    none = torch.full_like(elsewhere, -1)
    ranks[elsewhere], _ = rank(everyone[elsewhere], none, barred.of_rows(elsewhere), None, scores[elsewhere])
    return meeting.sum_of_own(ranks)


def _meet(op: str, shard: CatalogShard, hidden: Tensor, exclude: Exclusion, facts: dict[str, object]) -> Meeting:
    refuse_tangents(op, (hidden, shard.table))
    per_row, items = exclude.offsets is not None, exclude.items
    form = "none" if items is None else "per row" if per_row else "for all rows"
    facts = {
        **facts,
        "d of hidden": hidden.shape[1],
        "the dtype of hidden": hidden.dtype,
        "the dtype of weight": shard.table.dtype,
        "the form of exclude": form,
    }
    if items is not None and not per_row and checks_values(items.device):
        facts["exclude (its checksum)"] = zlib.crc32(repr(items.tolist()).encode())
    return Meeting(op, shard, hidden.shape[0], facts, excluded=items.shape[0] if items is not None and per_row else 0)


def _in_slice(meeting: Meeting, shard: CatalogShard, exclude: Exclusion) -> Exclusion:
    """What all ranks exclude, of this slice's items."""
    offsets, items = exclude
    if items is None:
        return exclude
    if offsets is None:
        local, is_here = _local(shard, items)
        return Exclusion(None, local[is_here])
    counts = meeting.gather(offsets.diff().long())
    local, is_here = _local(shard, meeting.gather(items.long(), [x.excluded for x in meeting.headers]))
    row = torch.repeat_interleave(counts)[is_here]
    ends = torch.zeros_like(counts).index_add_(0, row, torch.ones_like(row)).cumsum(0)
    return Exclusion(torch.cat([ends.new_zeros(1), ends]), local[is_here])


def _local(shard: CatalogShard, items: Tensor) -> tuple[Tensor, Tensor]:
    local = items - shard.first_item
    return local, (local >= 0) & (local < shard.table.shape[0])

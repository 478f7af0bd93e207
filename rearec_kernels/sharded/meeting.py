"""The ranks of a shard's group in one call: what they tell each other first, and the collectives after that."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from rearec_kernels.shards import CatalogShard, all_gather, rank_in, reduce_scatter


class _Header(NamedTuple):
    """What every rank sends to all others at the beginning of a call, as int64 numbers."""

    refused: int = 0  # whether the arguments are in error, and the rest is not filled in
    facts: int = 0  # a checksum of what has to be the same on every rank
    first_item: int = 0
    items: int = 0
    num_items: int = 0
    rows: int = 0
    needs_first: int = 0
    needs_second: int = 0
    excluded: int = 0


def _exchange(shard: CatalogShard, own: _Header) -> list[_Header]:
    sent = torch.tensor(own, dtype=torch.int64, device=shard.table.device)
    size = dist.get_world_size(shard.group)
    everyone = sent.new_empty(size * len(own))
    all_gather(everyone, sent, shard.group)
    return [_Header(*numbers) for numbers in everyone.view(size, len(own)).tolist()]


def _exchange_texts(shard: CatalogShard, own: object) -> list[Any]:
    everyone: list[Any] = [None] * dist.get_world_size(shard.group)
    dist.all_gather_object(everyone, own, group=shard.group)
    return everyone


@contextmanager
def refusals_told(shard: CatalogShard) -> Iterator[None]:
    """Around the checks that a rank makes by itself: if they fail, the others hear of it instead of waiting."""
    rank_in(shard.group)
    try:
        yield
    except Exception as error:
        _exchange(shard, _Header(refused=1))
        _exchange_texts(shard, str(error))
        raise


class Meeting:
    """The ranks of one call, which have found that they agree.

    Args:
        rows: of this rank.
        facts: what has to be the same on every rank, by the name that an error has for it.
        needed: which gradients this rank needs.
        excluded: how many items this rank excludes.

    Attributes:
        rank: this one.
        rows: of every rank.
        headers: of every rank.
        needed: which gradients any rank needs.
    """

    def __init__(
        self,
        op: str,
        shard: CatalogShard,
        rows: int,
        facts: Mapping[str, object],
        needed: tuple[bool, bool] = (False, False),
        excluded: int = 0,
    ) -> None:
        self.group, self.rank = shard.group, rank_in(shard.group)
        facts = {"the call": op, **facts}
        table = shard.table
        checksum = zlib.crc32(repr(facts).encode())
        numbers = shard.first_item, table.shape[0], shard.num_items, rows, *(int(x) for x in needed), excluded
        self.headers = _exchange(shard, _Header(0, checksum, *numbers))
        if any(x.refused for x in self.headers):
            texts = _exchange_texts(shard, None)
            rank = next(i for i, text in enumerate(texts) if text is not None)
            raise ValueError(f"{op}: rank {rank} of the shard's group refused its arguments: {texts[rank]}")
        if any(x.facts != checksum for x in self.headers):
            _raise_difference(op, _exchange_texts(shard, facts))
        _check_tiling(op, self.headers)
        self.rows = [x.rows for x in self.headers]
        self.needed = any(x.needs_first for x in self.headers), any(x.needs_second for x in self.headers)

    def gather(self, own: Tensor, lengths: Sequence[int] | None = None) -> Tensor:
        """[R, ...] of this rank's rows -> those of all ranks, one after the other, in a tensor of its own; or of as
        many as `lengths` says of each rank."""
        lengths = self.rows if lengths is None else lengths
        most, own = max(lengths), own.detach().contiguous()
        rest = own.shape[1:]
        if most * rest.numel() == 0:
            return own.new_empty((sum(lengths), *rest))
        everyone = own.new_empty((len(lengths) * most, *rest))
        all_gather(everyone, _padded(own, most), self.group)
        if min(lengths) == most:
            return everyone
        return torch.cat([part[:count] for part, count in zip(everyone.split(most), lengths, strict=True)])

    def own(self, everyone: Tensor) -> Tensor:
        """[R of all ranks, ...] -> this rank's rows."""
        return everyone.split(self.rows)[self.rank]

    def maximum(self, x: Tensor) -> Tensor:
        """The largest of all ranks, in place."""
        if x.numel() > 0:
            dist.all_reduce(x, op=dist.ReduceOp.MAX, group=self.group)
        return x

    def sum(self, x: Tensor) -> Tensor:
        """Over all ranks, in place."""
        if x.numel() > 0:
            dist.all_reduce(x, group=self.group)
        return x

    def sum_of_own(self, everyone: Tensor) -> Tensor:
        """[R of all ranks, ...] -> the sum over all ranks for this rank's rows."""
        most = max(self.rows)
        if everyone.numel() == 0:
            return self.own(everyone)
        if min(self.rows) < most:
            everyone = torch.cat([_padded(part, most) for part in everyone.split(self.rows)])
        own = everyone.new_empty((most, *everyone.shape[1:]))
        reduce_scatter(own, everyone.contiguous(), self.group)
        return own[: self.rows[self.rank]]

    def to_owners(self, everyone: Tensor) -> Tensor:
        """[R of all ranks, ...] -> [ranks, own rows, ...]: what every rank has of this rank's rows."""
        count = self.rows[self.rank]
        received = everyone.new_empty((len(self.rows) * count, *everyone.shape[1:]))
        if everyone.numel() > 0:
            counts = [count] * len(self.rows)
            dist.all_to_all_single(received, everyone.contiguous(), counts, self.rows, group=self.group)
        return received.view(len(self.rows), count, *everyone.shape[1:])


def _padded(x: Tensor, rows: int) -> Tensor:
    if x.shape[0] == rows:
        return x
    return torch.cat([x, x.new_zeros((rows - x.shape[0], *x.shape[1:]))])


def _raise_difference(op: str, facts: Sequence[Mapping[str, object]]) -> None:
    for rank, others in enumerate(facts):
        for name, value in facts[0].items():
            if others.get(name) != value:
                raise ValueError(
                    f"{op}: {name} has to be the same on every rank of the shard's group, got {value} on rank 0 and "
                    f"{others.get(name)} on rank {rank}"
                )
    raise ValueError(f"{op}: the arguments differ between the ranks of the shard's group")


def _check_tiling(op: str, headers: Sequence[_Header]) -> None:
    end, num_items = 0, headers[0].num_items
    for x in sorted(headers, key=lambda x: x.first_item):
        if x.first_item != end or x.num_items != num_items:
            break
        end += x.items
    else:
        if end == num_items:
            return
    shards = ", ".join(
        f"[{x.first_item}, {x.first_item + x.items}) of {x.num_items} on rank {i}" for i, x in enumerate(headers)
    )
    raise ValueError(f"{op}: the shards of the group have to tile the catalogue, got {shards}")

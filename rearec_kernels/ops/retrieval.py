"""Ops of the retrieval over the catalog; nothing of them is differentiated."""

from __future__ import annotations

import torch
from torch import Tensor

from rearec_kernels.arguments import check_items, check_offsets, check_values
from rearec_kernels.ops.arguments import CatalogTiles, Rank, TopK
from rearec_kernels.ops.registry import define


def _check_exclusion(op: str, args: TopK | Rank) -> None:
    if args.exclude_items is not None:
        check_items(op, "exclude", args.exclude_items, args.weight.shape[0])
        check_offsets(op, args.exclude_offsets, args.exclude_items)


def _check_topk(args: TopK) -> None:
    _check_exclusion("catalog_topk", args)


def _check_rank(args: Rank) -> None:
    if args.target_score is None:
        check_items("catalog_rank", "target", args.target, args.weight.shape[0])
    if args.target_bonus is not None:
        check_values("catalog_rank", "target_bonus", args.target_bonus)
    _check_exclusion("catalog_rank", args)


def _fake_rank(args: Rank) -> tuple[Tensor, Tensor]:
    """Ranks, and what the items were compared with."""
    ranks = args.hidden.new_empty(args.hidden.shape[0], dtype=torch.float32)
    return ranks, torch.empty_like(ranks)


def _fake_topk(args: TopK) -> tuple[Tensor, Tensor]:
    shape = args.hidden.shape[0], args.k
    return args.hidden.new_empty(shape, dtype=torch.float32), args.hidden.new_empty(shape, dtype=torch.int64)


define(
    "catalog_topk",
    (TopK,),
    "(Tensor, Tensor)",
    _fake_topk,
    family="retrieval",
    check=_check_topk,
    not_differentiated="catalog_topk",
)

define(
    "catalog_rank",
    (Rank,),
    "(Tensor, Tensor)",
    _fake_rank,
    family="retrieval",
    check=_check_rank,
    not_differentiated="catalog_rank",
)


def _fake_tiles(args: CatalogTiles) -> list[Tensor]:
    weight = args.weight
    blocks, depth = -(-weight.shape[0] // 32), -(-weight.shape[1] // 32)
    tiles = [weight.new_empty((blocks, depth * 32 * 32), dtype=torch.bfloat16)]
    if args.precision == "fp32":
        shapes = (blocks, 2, 32), (weight.shape[1],)
        tiles += [weight.new_empty(shape, dtype=torch.float32) for shape in shapes]
    return tiles


define("catalog_tiles", (CatalogTiles,), "Tensor[]", _fake_tiles, family="retrieval")

"""Top-k and rank over the catalog in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rearec_kernels.ops.arguments import Rank, TopK
from rearec_kernels.precision import ieee_products
from rearec_kernels.reference.products import operands, row_chunks


def _score_chunks(args: TopK | Rank) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Rows, their scores of the whole catalog [rows, N] and which of these are excluded (bool, or None)."""
    h, e, _ = operands(args.hidden, args.weight, args.precision)
    offsets, items = args.exclude_offsets, args.exclude_items
    for rows in row_chunks(h.shape[0], e.shape[0]):
        scores = (h[rows] @ e.T).float()
        excluded = None
        if items is not None:
            excluded = torch.zeros_like(scores, dtype=torch.bool)
            if offsets is None:
                excluded[:, items.long()] = True
            else:
                first, last = int(offsets[rows][0]), int(offsets[rows.start : rows.stop + 1][-1])
                row = torch.repeat_interleave(offsets[rows.start : rows.stop + 1].diff())
                excluded[row, items[first:last].long()] = True
        yield rows, scores, excluded


def catalog_topk(args: TopK) -> tuple[Tensor, Tensor]:
    """A stable sort, so that ties keep the order of the items. NaN and -inf are no candidates."""
    shape, kept = (args.hidden.shape[0], args.k), min(args.k, args.weight.shape[0])
    best_scores = torch.full(shape, float("-inf"), dtype=torch.float32, device=args.hidden.device)
    best_items = torch.full(shape, -1, dtype=torch.int64, device=args.hidden.device)
    with ieee_products(args.hidden.device):
        for chunk, scores, excluded in _score_chunks(args):
            barred = scores.isnan() if excluded is None else excluded.logical_or_(scores.isnan())
            scores, order = scores.masked_fill(barred, float("-inf")).sort(dim=1, descending=True, stable=True)
            best_scores[chunk, :kept] = scores[:, :kept]
            best_items[chunk, :kept] = order[:, :kept]
    return best_scores, best_items.masked_fill_(best_scores == float("-inf"), -1)


def catalog_rank(args: Rank) -> tuple[Tensor, Tensor]:
    """Items above the target and half the ties; NaN when the target's score is. And that score."""
    ranks = torch.empty(args.hidden.shape[0], dtype=torch.float32, device=args.hidden.device)
    compared = torch.empty_like(ranks)
    with ieee_products(args.hidden.device):
        for rows, scores, excluded in _score_chunks(args):
            column = args.target[rows, None].long()
            if args.target_score is not None:
                target_scores = args.target_score[rows, None]
            else:
                target_scores = scores.gather(1, column)
                if args.target_bonus is not None:
                    target_scores += args.target_bonus[rows, None].float()
            half_counts = (scores > target_scores).int() + (scores >= target_scores).int()
            if excluded is not None:
                half_counts.masked_fill_(excluded, 0)
            if args.target_score is None:
                half_counts.scatter_(1, column, 0)
            compared[rows] = target_scores.squeeze(1)
            counted = half_counts.sum(1).double() / 2
            ranks[rows] = counted.masked_fill(target_scores.squeeze(1).isnan(), float("nan"))
    return ranks, compared

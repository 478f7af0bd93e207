"""Top-k and rank over the catalogue in plain PyTorch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rearec_kernels.precision import ieee_products
from rearec_kernels.reference.products import operands, row_chunks


def _score_chunks(
    hidden: Tensor, weight: Tensor, offsets: Tensor | None, items: Tensor | None, precision: str
) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Rows, their scores of the whole catalogue [rows, N] and which of these are excluded (bool, or None)."""
    h, e, _ = operands(hidden, weight, precision)
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


def catalog_topk(
    hidden: Tensor, weight: Tensor, k: int, offsets: Tensor | None, items: Tensor | None, precision: str
) -> tuple[Tensor, Tensor]:
    """A stable sort, so that ties keep the order of the items. NaN and -inf are no candidates."""
    rows, kept = hidden.shape[0], min(k, weight.shape[0])
    best_scores = torch.full((rows, k), float("-inf"), dtype=torch.float32, device=hidden.device)
    best_items = torch.full((rows, k), -1, dtype=torch.int64, device=hidden.device)
    with ieee_products(hidden.device):
        for chunk, scores, excluded in _score_chunks(hidden, weight, offsets, items, precision):
            barred = scores.isnan() if excluded is None else excluded.logical_or_(scores.isnan())
            scores, order = scores.masked_fill(barred, float("-inf")).sort(dim=1, descending=True, stable=True)
            best_scores[chunk, :kept] = scores[:, :kept]
            best_items[chunk, :kept] = order[:, :kept]
    return best_scores, best_items.masked_fill_(best_scores == float("-inf"), -1)


def catalog_rank(
    hidden: Tensor, weight: Tensor, target: Tensor, offsets: Tensor | None, items: Tensor | None, precision: str
) -> Tensor:
    """Items above the target and half the ties; NaN when the target's score is."""
    ranks = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
    with ieee_products(hidden.device):
        for rows, scores, excluded in _score_chunks(hidden, weight, offsets, items, precision):
            column = target[rows, None].long()
            target_scores = scores.gather(1, column)
            half_counts = (scores > target_scores).int() + (scores >= target_scores).int()
            if excluded is not None:
                half_counts.masked_fill_(excluded, 0)
            half_counts.scatter_(1, column, 0)
            counted = half_counts.sum(1).double() / 2
            ranks[rows] = counted.masked_fill(target_scores.squeeze(1).isnan(), float("nan"))
    return ranks

"""The best items and the ranks of targets by a model's scores and a bonus that few items of each row have.

Exact without a matrix of all scores: as no bonus is below 0, an item without one that is among the best k by both is
among the model's own best k. So these, and the items that have a bonus, hold the answer.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rearec.data.item_graph import RowScores
from rearec_kernels import CatalogShard, PreparedCatalog, catalog_rank, catalog_topk

__all__ = ["Exclude", "pair_scores", "rank", "top"]

Exclude = Tensor | tuple[Tensor, Tensor] | None
# Numbers of gathered item vectors at a time.
GATHERED = 1 << 25


def top(
    hidden: Tensor,
    catalog: Tensor | PreparedCatalog | CatalogShard,
    k: int,
    *,
    exclude: Exclude = None,
    bonus: RowScores | None = None,
) -> tuple[Tensor, Tensor]:
    """float32 [R, k] and int64 [R, k]: as `rearec_kernels.catalog_topk`, by scores plus bonus.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from rearec.data import RowScores
        >>> from rearec.engine.retrieval import top
        >>> from rearec_kernels import prepare_catalog
        >>> catalog, hidden = prepare_catalog(torch.eye(3)), torch.tensor([[0.5, 0.25, 0.0]])
        >>> top(hidden, catalog, 2)[1]
        tensor([[0, 1]])
        >>> top(hidden, catalog, 2, bonus=RowScores(np.array([0, 1]), np.array([2]), np.array([0.375])))
        (tensor([[0.5000, 0.3750]]), tensor([[0, 2]]))
    """
    scores, items = catalog_topk(hidden, catalog, k, exclude=exclude)
    if bonus is None or not len(bonus.items):
        return scores, items
    if len(hidden) == 1:
        return _top_of_one(hidden, _table(catalog), scores, items, exclude, bonus)
    linked = _Linked(hidden, _table(catalog), bonus, exclude)
    rows = torch.arange(len(hidden), device=hidden.device)[:, None]
    again = linked.has(rows * linked.num_items + items.clamp(min=0)) & (items >= 0)
    scores = scores.masked_fill(again, -torch.inf)
    items = items.masked_fill(again, -1)
    found, of_item = linked.padded()
    scores, items = torch.cat([scores, found], 1), torch.cat([items, of_item], 1)
    # by falling score, ties by lower item, what is none last
    by_item = items.masked_fill(items < 0, linked.num_items).argsort(dim=1, stable=True)
    order = by_item.gather(1, scores.gather(1, by_item).argsort(dim=1, descending=True, stable=True))[:, :k]
    return scores.gather(1, order), items.gather(1, order)


def rank(
    hidden: Tensor,
    catalog: PreparedCatalog | CatalogShard,
    target: Tensor,
    *,
    exclude: Exclude = None,
    bonus: RowScores | None = None,
) -> Tensor:
    """float32 [R]: as `rearec_kernels.catalog_rank`, by scores plus bonus; the target keeps its own bonus.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from rearec.data import RowScores
        >>> from rearec.engine.retrieval import rank
        >>> from rearec_kernels import prepare_catalog
        >>> catalog, hidden = prepare_catalog(torch.eye(3)), torch.tensor([[0.5, 0.25, 0.0]])
        >>> bonus = RowScores(np.array([0, 1]), np.array([2]), np.array([0.375]))
        >>> rank(hidden, catalog, torch.tensor([2]), bonus=bonus)
        tensor([1.])
    """
    if bonus is None or not len(bonus.items):
        return catalog_rank(hidden, catalog, target, exclude=exclude)
    weight = _table(catalog)
    linked = _Linked(hidden, weight, bonus, exclude)
    own = linked.bonus_of(target)
    among_others = catalog_rank(hidden, catalog, target, exclude=linked.beside(exclude), target_bonus=own)
    threshold = _dot(hidden, weight[target]) + own
    return among_others + linked.above(threshold, target)


def _table(catalog: Tensor | PreparedCatalog | CatalogShard) -> Tensor:
    if isinstance(catalog, CatalogShard):
        raise ValueError("bonus: got one beside a part of the catalogue, expected none")
    return catalog.weight if isinstance(catalog, PreparedCatalog) else catalog


def _top_of_one(
    hidden: Tensor, weight: Tensor, scores: Tensor, items: Tensor, exclude: Exclude, bonus: RowScores
) -> tuple[Tensor, Tensor]:
    """What `top` answers to one row, whose own best k are known: with few calls, for these are what it costs."""
    linked = bonus.items
    vectors = weight.index_select(0, torch.from_numpy(linked).to(hidden.device))
    total = _products(hidden[0], vectors).cpu().numpy() + bonus.scores.astype(np.float32)
    if exclude is not None:
        barred, _ = _places(linked, (exclude if isinstance(exclude, Tensor) else exclude[1]).cpu().numpy())
        total[barred] = -np.inf
    own, best = items[0].cpu().numpy(), scores[0].cpu().numpy().copy()
    place, is_linked = _places(linked, own)
    best[is_linked] = total[place]
    # what is below all of k is not among the best
    least = max(best.min(), np.finfo(np.float32).min)
    total[place] = -np.inf
    rest = (total >= least).nonzero()[0]
    best, own = np.concatenate([best, total[rest]]), np.concatenate([own, linked[rest]])
    # what is not there, -inf and -1, stays last
    order = np.lexsort((own, -best))[None, : items.shape[1]]
    return torch.from_numpy(best[order]).to(hidden.device), torch.from_numpy(own[order]).to(hidden.device)


def _places(rising: NDArray[np.int64], items: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where items stand among others, one or more, and which of them stand there."""
    place = np.minimum(rising.searchsorted(items), len(rising) - 1)
    is_there = rising[place] == items
    return place[is_there], is_there


class _Linked:
    """The pairs (row, item) that have a bonus and may be answered, with their scores.

    key: int64 [E], row * N + item, rising; scores: float32 [E], the bonus included.
    """

    def __init__(self, hidden: Tensor, weight: Tensor, bonus: RowScores, exclude: Exclude) -> None:
        device = hidden.device
        self.num_rows, self.num_items = hidden.shape[0], weight.shape[0]
        row = torch.from_numpy(bonus.rows).to(device)
        item = torch.from_numpy(bonus.items).to(device)
        added = torch.from_numpy(bonus.scores).to(device, torch.float32)
        self._all = row, item, added
        free = _not_excluded(row, item, exclude, self.num_items)
        self._row, self._item = row[free], item[free]
        self.key = self._row * self.num_items + self._item
        self.scores = pair_scores(hidden, weight, self._row, self._item) + added[free]

    def has(self, key: Tensor) -> Tensor:
        """bool: whether each key is one of those."""
        if not len(self.key):
            return torch.zeros_like(key, dtype=torch.bool)
        place = torch.searchsorted(self.key, key).clamp(max=len(self.key) - 1)
        return self.key[place] == key

    def padded(self) -> tuple[Tensor, Tensor]:
        """float32 and int64 [R, most of a row]: scores and items row by row, -inf and -1 behind the last."""
        count = torch.bincount(self._row, minlength=self.num_rows)
        first = count.cumsum(0) - count
        width = int(count.max()) if len(count) else 0
        place = torch.arange(len(self._row), device=self._row.device) - first[self._row]
        scores = self.scores.new_full((self.num_rows, width), -torch.inf)
        items = self._item.new_full((self.num_rows, width), -1)
        good = self.scores > -torch.inf  # not NaN either
        scores[self._row[good], place[good]] = self.scores[good]
        items[self._row[good], place[good]] = self._item[good]
        return scores, items

    def bonus_of(self, target: Tensor) -> Tensor:
        """float32 [R], the bonus of each row's target, which is never excluded."""
        row, item, added = self._all
        own = added.new_zeros(self.num_rows)
        mine = item == target[row]
        own[row[mine]] = added[mine]
        return own

    def beside(self, exclude: Exclude) -> tuple[Tensor, Tensor]:
        """What was excluded and, for each row, the items with a bonus: they are counted apart."""
        row, item, _ = self._all
        if isinstance(exclude, Tensor):
            rows = torch.arange(self.num_rows, device=row.device)
            row, item = (
                torch.cat([row, rows.repeat_interleave(len(exclude))]),
                torch.cat([item, exclude.repeat(len(rows))]),
            )
        elif exclude is not None:
            offsets, items = exclude
            row = torch.cat([row, _rows_of(offsets)])
            item = torch.cat([item, items.to(item.dtype)])
        order = row.argsort(stable=True)
        count = torch.bincount(row, minlength=self.num_rows)
        return torch.cat([count.new_zeros(1), count.cumsum(0)]), item[order]

    def above(self, threshold: Tensor, target: Tensor) -> Tensor:
        """float32 [R]: those above the threshold of their row plus half of those at it, the target left out."""
        other = self._item != target[self._row]
        limit = threshold[self._row]
        counts = ((self.scores > limit).float() + 0.5 * (self.scores == limit).float()) * other
        return torch.zeros(self.num_rows, device=counts.device).index_add_(0, self._row, counts)


def pair_scores(hidden: Tensor, weight: Tensor, row: Tensor, item: Tensor) -> Tensor:
    """float32 [E]: the score of each pair of a row of hidden [R, d] and an item of weight [N, d], both int64 [E]."""
    step = max(1, GATHERED // max(1, weight.shape[1]))
    parts = [
        _dot(hidden[row[begin : begin + step]], weight[item[begin : begin + step]])
        for begin in range(0, len(row), step)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _dot(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 [E]: of two [E, d], or one row with each; summed no less precisely than in float32."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return (hidden.to(wide) * weight.to(wide)).sum(-1).float()


def _products(hidden: Tensor, weight: Tensor) -> Tensor:
    """float32 [E]: of one [d] with each of [E, d], as precise as `_dot`, in fewer passes."""
    wide = torch.promote_types(hidden.dtype, torch.float32)
    return torch.mv(weight.to(wide), hidden.to(wide)).float()


def _rows_of(offsets: Tensor) -> Tensor:
    return torch.arange(len(offsets) - 1, device=offsets.device).repeat_interleave(offsets.diff())


def _not_excluded(row: Tensor, item: Tensor, exclude: Exclude, num_items: int) -> Tensor:
    if exclude is None:
        return torch.ones_like(item, dtype=torch.bool)
    if isinstance(exclude, Tensor):
        return ~torch.isin(item, exclude)
    offsets, items = exclude
    return ~torch.isin(row * num_items + item, _rows_of(offsets) * num_items + items)

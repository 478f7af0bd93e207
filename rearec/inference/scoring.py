"""The best items of a batch of states, among those that each answer may hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rearec.engine import Engine
from rearec.inference.filters import NOTHING, IntArray
from rearec_kernels import PreparedCatalog, catalog_topk

__all__ = ["barred", "best_items", "top_rows"]

Ranking = tuple[list[int], list[float]]


def barred(seen: Sequence[int], denied: IntArray) -> IntArray:
    """What an answer may not hold, in rising order; without seen items, the list of denied ones itself."""
    return np.union1d(np.array(seen, np.int64), denied) if seen else denied


def best_items(
    engine: Engine,
    states: Tensor,
    allowed: Sequence[IntArray | None],
    bars: Sequence[IntArray],
    k: int,
    tables: dict[int, Tensor],
) -> list[Ranking]:
    """Numbers and scores of the best k items of each row of one batch; fewer where no more are left.

    allowed: of each row, the only items to score (None: all). Rows with the same list go together.
    bars: of each row, what its answer may not hold, as `barred` says.
    tables: keeps the vectors of the last list, for the batches that follow.
    """
    groups: dict[int, list[int]] = {}
    for row, items in enumerate(allowed):
        groups.setdefault(id(items), []).append(row)
    answers: list[Ranking] = [([], [])] * len(allowed)
    for key, rows in groups.items():
        items = allowed[rows[0]]
        if items is None:
            best = top_rows(states[rows] if len(groups) > 1 else states, engine.catalog, [bars[row] for row in rows], k)
        elif len(items):
            if key not in tables:
                tables.clear()
                tables[key] = engine.weight[torch.from_numpy(items).to(states.device)]
            places = [_places(items, bars[row]) for row in rows]
            best = [(items[found].tolist(), scores) for found, scores in top_rows(states[rows], tables[key], places, k)]
        else:
            continue
        for row, answer in zip(rows, best, strict=True):
            answers[row] = answer
    return answers


def top_rows(states: Tensor, table: Tensor | PreparedCatalog, bars: Sequence[IntArray], k: int) -> list[Ranking]:
    """Rows of a table and scores of the best k of each state, without what is barred; fewer where no more are left."""
    exclude: Tensor | tuple[Tensor, Tensor] | None = None
    if any(len(bar) for bar in bars):
        if all(bar is bars[0] for bar in bars):
            exclude = torch.from_numpy(bars[0]).to(states.device)
        else:
            offsets = np.concatenate(([0], np.cumsum([len(bar) for bar in bars])))
            items = torch.from_numpy(np.concatenate(bars)).to(states.device)
            exclude = (torch.from_numpy(offsets).to(states.device), items)
    size = (table.weight if isinstance(table, PreparedCatalog) else table).shape[0]
    scores, found = catalog_topk(states, table, min(k, size), exclude=exclude)
    answers = []
    for row_scores, row_items in zip(scores.tolist(), found.tolist(), strict=True):
        # Where fewer than k items are left, the rest is -1.
        left = sum(item >= 0 for item in row_items)
        answers.append((row_items[:left], row_scores[:left]))
    return answers


def _places(items: IntArray, bar: IntArray) -> IntArray:
    """Where what is barred stands among these items."""
    return np.flatnonzero(np.isin(items, bar)) if len(bar) else NOTHING

"""The best items of a batch of states, among those that each answer may hold, with what an item graph adds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from rearec.data.dataset import ranges
from rearec.data.item_graph import RowScores
from rearec.engine import Engine
from rearec.engine.retrieval import top
from rearec.inference.filters import NOTHING, IntArray
from rearec_kernels import PreparedCatalog

__all__ = ["barred", "best_items", "bonus_of", "concatenated", "top_rows"]

Ranking = tuple[list[int], list[float]]


def barred(seen: Sequence[int], denied: IntArray) -> IntArray:
    """What an answer may not hold, in rising order; without seen items, the list of denied ones itself."""
    return np.union1d(np.array(seen, np.int64), denied) if seen else denied


def bonus_of(engine: Engine, histories: Sequence[Sequence[int]], steps: int | None = None) -> RowScores | None:
    """What the model's item graph adds to the scores of each whole history's items; None as `Engine.bonus` says."""
    if engine.prior is None:
        return None
    return engine.bonus(*concatenated(histories), steps)


def concatenated(histories: Sequence[Sequence[int]]) -> tuple[IntArray, IntArray]:
    """Offsets int64 [R + 1] and the items of all histories one after the other, as `Engine.bonus` takes them."""
    offsets = np.cumsum([0, *map(len, histories)])
    return offsets, np.fromiter(chain.from_iterable(histories), np.int64, int(offsets[-1]))


def best_items(
    engine: Engine,
    states: Tensor,
    allowed: Sequence[IntArray | None],
    bars: Sequence[IntArray],
    k: int,
    tables: dict[int, Tensor],
    bonus: RowScores | None = None,
) -> list[Ranking]:
    """Numbers and scores of the best k items of each row of one batch; fewer where no more are left.

    allowed: of each row, the only items to score (None: all). Rows with the same list go together.
    bars: of each row, what its answer may not hold, as `barred` says.
    tables: keeps the vectors of the last list, for the batches that follow.
    bonus: what is added to the scores of each row's items.
    """
    groups: dict[int, list[int]] = {}
    for row, items in enumerate(allowed):
        groups.setdefault(id(items), []).append(row)
    answers: list[Ranking] = [([], [])] * len(allowed)
    for key, rows in groups.items():
        items = allowed[rows[0]]
        mine, own = (states, bonus) if len(groups) == 1 else (states[rows], _of_rows(bonus, rows))
        if items is None:
            assert isinstance(engine.catalog, PreparedCatalog)  # answers come of a model that this process has all of
            best = top_rows(mine, engine.catalog, [bars[row] for row in rows], k, own)
        elif len(items):
            if key not in tables:
                tables.clear()
                tables[key] = engine.weight[torch.from_numpy(items).to(states.device)]
            places = [_places(items, bars[row]) for row in rows]
            best = [
                (items[found].tolist(), scores)
                for found, scores in top_rows(mine, tables[key], places, k, _among(own, items))
            ]
        else:
            continue
        for row, answer in zip(rows, best, strict=True):
            answers[row] = answer
    return answers


def top_rows(
    states: Tensor,
    table: Tensor | PreparedCatalog,
    bars: Sequence[IntArray],
    k: int,
    bonus: RowScores | None = None,
) -> list[Ranking]:
    """Rows of a table and scores of the best k of each state, without what is barred; fewer where no more are left.

    bonus: what is added to the scores of rows of the table.
    """
    exclude: Tensor | tuple[Tensor, Tensor] | None = None
    if any(len(bar) for bar in bars):
        if all(bar is bars[0] for bar in bars):
            exclude = torch.from_numpy(bars[0]).to(states.device)
        else:
            offsets = np.concatenate(([0], np.cumsum([len(bar) for bar in bars])))
            items = torch.from_numpy(np.concatenate(bars)).to(states.device)
            exclude = (torch.from_numpy(offsets).to(states.device), items)
    size = (table.weight if isinstance(table, PreparedCatalog) else table).shape[0]
    scores, found = top(states, table, min(k, size), exclude=exclude, bonus=bonus)
    answers = []
    for row_scores, row_items in zip(scores.tolist(), found.tolist(), strict=True):
        # Where fewer than k items are left, the rest is -1.
        left = sum(item >= 0 for item in row_items)
        answers.append((row_items[:left], row_scores[:left]))
    return answers


def _places(items: IntArray, bar: IntArray) -> IntArray:
    """Where what is barred stands among these items."""
    return np.flatnonzero(np.isin(items, bar)) if len(bar) else NOTHING


def _of_rows(bonus: RowScores | None, rows: Sequence[int]) -> RowScores | None:
    """The bonus of some rows, in their order."""
    if bonus is None:
        return None
    begin, count = bonus.offsets[:-1][rows], np.diff(bonus.offsets)[rows]
    entry = ranges(begin, count)
    return RowScores(np.concatenate(([0], np.cumsum(count))), bonus.items[entry], bonus.scores[entry])


def _among(bonus: RowScores | None, items: IntArray) -> RowScores | None:
    """The bonus of these items, in rising order, by their place among them."""
    if bonus is None:
        return None
    place = np.minimum(np.searchsorted(items, bonus.items), len(items) - 1)
    listed = items[place] == bonus.items
    bounds = np.concatenate(([0], np.cumsum(listed)))[bonus.offsets]
    return RowScores(bounds, place[listed], bonus.scores[listed])

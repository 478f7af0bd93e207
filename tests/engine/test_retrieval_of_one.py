"""The best items of one row under a bonus: the same as those of the row among others, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rearec.data import RowScores
from rearec.engine.retrieval import top
from rearec_kernels import prepare_catalog

N, D, ROWS = 60, 5, 12
NONE = torch.empty(0, dtype=torch.int64)


def problem(seed: int, linked: int) -> tuple[Tensor, Tensor, RowScores]:
    """States, items and bonuses of small multiples of a quarter: every sum is exact, and many scores tie."""
    draw = np.random.default_rng(seed)
    hidden, weight = (torch.from_numpy(draw.integers(-3, 4, (rows, D)) / 2).float() for rows in (ROWS, N))
    items = [np.sort(draw.choice(N, draw.integers(0, linked + 1), replace=False)) for _ in range(ROWS)]
    offsets = np.cumsum([0, *map(len, items)])
    return hidden, weight, RowScores(offsets, np.concatenate(items), draw.integers(1, 9, offsets[-1]) / 4)


def of_row(bonus: RowScores, row: int) -> RowScores:
    own = slice(bonus.offsets[row], bonus.offsets[row + 1])
    return RowScores(np.array([0, own.stop - own.start]), bonus.items[own], bonus.scores[own])


def by_sorting(scores: Tensor, k: int, barred: Tensor) -> list[tuple[float, int]]:
    scores = scores.double().clone()
    scores[barred] = -torch.inf
    pairs = sorted((-score, item) for item, score in enumerate(scores.tolist()) if -torch.inf < score)
    return [(-score, item) for score, item in pairs[:k]]


@pytest.mark.parametrize("linked", [0, 3, N])
@pytest.mark.parametrize("k", [1, 7, N, N + 4])
@pytest.mark.parametrize("barred", ["none", "for all", "by row"])
def test_as_among_other_rows(k: int, linked: int, barred: str) -> None:
    for seed in range(3):
        hidden, weight, bonus = problem(seed, linked)
        lists = [torch.randperm(N)[:20] for _ in range(ROWS)]
        exclude: Tensor | tuple[Tensor, Tensor] | None = None
        if barred == "for all":
            lists = lists[:1] * ROWS
            exclude = lists[0]
        elif barred == "by row":
            exclude = torch.arange(ROWS + 1) * 20, torch.cat(lists)
        scores, items = top(hidden, prepare_catalog(weight), k, exclude=exclude, bonus=bonus)
        for row in range(ROWS):
            mine = (torch.tensor([0, 20]), lists[row]) if barred == "by row" else exclude
            one = top(hidden[row : row + 1], weight, k, exclude=mine, bonus=of_row(bonus, row))
            torch.testing.assert_close(one, (scores[row : row + 1], items[row : row + 1]), rtol=0, atol=0)
            dense = hidden[row] @ weight.T
            dense[of_row(bonus, row).items] += torch.from_numpy(of_row(bonus, row).scores).float()
            expected = by_sorting(dense, k, NONE if barred == "none" else lists[row])
            there = len(expected)
            assert list(zip(one[0][0].tolist(), one[1][0].tolist(), strict=True))[:there] == expected
            assert (one[1][0, there:] == -1).all() and (one[0][0, there:] == -torch.inf).all()


def test_items_without_a_score_are_no_answers() -> None:
    weight = torch.eye(4)
    weight[1], weight[2] = torch.nan, -torch.inf
    hidden = torch.tensor([[1.0, 1.0, 1.0, 0.5]])
    bonus = RowScores(np.array([0, 4]), np.arange(4), np.full(4, 0.25))
    scores, items = top(hidden, weight, 4, bonus=bonus)
    assert (items.tolist(), scores.tolist()) == ([[0, 3, -1, -1]], [[1.25, 0.75, -torch.inf, -torch.inf]])
    barred = top(hidden, weight, 4, exclude=torch.arange(4), bonus=bonus)
    assert (barred[1] == -1).all() and (barred[0] == -torch.inf).all()

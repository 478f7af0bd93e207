"""The best items and the ranks of targets by scores and a sparse bonus, against all scores in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rearec.data.item_graph import RowScores
from rearec.engine.retrieval import Exclude, rank, top
from rearec_kernels import catalog_rank, catalog_topk, prepare_catalog

FORMS = ("nothing", "items", "rows")


def bonus_of(entries: list[dict[int, float]]) -> RowScores:
    """For each row {item: bonus}."""
    offsets = np.cumsum([0, *map(len, entries)])
    items = np.array([item for row in entries for item in sorted(row)], dtype=np.int64)
    return RowScores(offsets, items, np.array([row[item] for row in entries for item in sorted(row)], dtype=float))


def problem(seed: int, rows: int, num_items: int, form: str) -> tuple[Tensor, Tensor, Tensor, RowScores, Exclude]:
    """Scores and bonuses are multiples of 1/4 that floats hold, of few values: many ties."""
    draw = np.random.default_rng(seed)
    hidden = torch.from_numpy(draw.integers(-2, 3, size=(rows, 4)) / 2).float()
    weight = torch.from_numpy(draw.integers(-2, 3, size=(num_items, 4)) / 2).float()
    target = torch.from_numpy(draw.integers(num_items, size=rows))
    linked = [draw.choice(num_items, draw.integers(num_items + 1), replace=False) for _ in range(rows)]
    bonus = bonus_of([{int(item): float(draw.integers(1, 9)) / 4 for item in row} for row in linked])
    excluded = [draw.choice(num_items, draw.integers(num_items + 1), replace=False) for _ in range(rows)]
    by_form: dict[str, Exclude] = {
        "nothing": None,
        "items": torch.from_numpy(np.sort(excluded[0])),
        "rows": (
            torch.from_numpy(np.cumsum([0, *map(len, excluded)])),
            torch.from_numpy(np.concatenate(excluded).astype(np.int64)),
        ),
    }
    return hidden, weight, target, bonus, by_form[form]


def dense(hidden: Tensor, weight: Tensor, bonus: RowScores) -> np.ndarray:
    """float64 [R, N]"""
    scores = hidden.double().numpy() @ weight.double().numpy().T
    np.add.at(scores, (bonus.rows, bonus.items), bonus.scores)
    return scores


def barred(exclude: Exclude, rows: int, num_items: int) -> np.ndarray:
    """bool [R, N]"""
    out = np.zeros((rows, num_items), dtype=bool)
    if isinstance(exclude, Tensor):
        out[:, exclude.numpy()] = True
    elif exclude is not None:
        offsets, items = (each.numpy() for each in exclude)
        out[np.repeat(np.arange(rows), np.diff(offsets)), items] = True
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("rows", "num_items"), [(1, 1), (1, 7), (5, 1), (6, 13), (17, 40)])
@pytest.mark.parametrize("seed", range(4))
def test_the_best_and_the_ranks_are_those_of_all_scores(seed: int, rows: int, num_items: int, form: str) -> None:
    hidden, weight, target, bonus, exclude = problem(seed, rows, num_items, form)
    scores, out = dense(hidden, weight, bonus), barred(exclude, rows, num_items)
    catalog = prepare_catalog(weight)

    of_target = scores[np.arange(rows), target.numpy()][:, None]
    rival = ~out & (np.arange(num_items) != target.numpy()[:, None])
    ranks = (((scores > of_target) + 0.5 * (scores == of_target)) * rival).sum(axis=1)
    assert rank(hidden, catalog, target, exclude=exclude, bonus=bonus).tolist() == ranks.tolist()

    for k in {1, 3, num_items, num_items + 3}:
        found, items = top(hidden, catalog, k, exclude=exclude, bonus=bonus)
        assert found.dtype == torch.float32 and found.shape == items.shape == (rows, k)
        for row in range(rows):
            free = np.flatnonzero(~out[row])
            best = free[np.argsort(-scores[row, free], kind="stable")][:k].tolist()
            assert items[row].tolist() == best + [-1] * (k - len(best))
            assert found[row].tolist() == scores[row, best].tolist() + [-np.inf] * (k - len(best))


@pytest.mark.parametrize("form", FORMS)
def test_scores_that_round_are_the_products_with_the_bonus(form: str) -> None:
    torch.manual_seed(0)
    hidden, weight = torch.randn(30, 16), torch.randn(200, 16)
    _, _, target, bonus, exclude = problem(1, 30, 200, form)
    scores = dense(hidden, weight, bonus)
    scores[barred(exclude, 30, 200)] = -np.inf
    found, items = top(hidden, prepare_catalog(weight), 20, exclude=exclude, bonus=bonus)
    there = items >= 0
    expected = np.take_along_axis(scores, items.clamp(min=0).numpy(), 1)
    np.testing.assert_allclose(found[there], expected[there], atol=2e-5)
    best = -np.sort(-scores, axis=1)[:, :20]
    np.testing.assert_allclose(found, best, atol=2e-5)
    # drawn at random, no score is as near to a target's as rounding
    full, out = dense(hidden, weight, bonus), barred(exclude, 30, 200)
    of_target = full[np.arange(30), target.numpy()][:, None]
    above = ((full > of_target) & ~out).sum(axis=1)
    assert rank(hidden, prepare_catalog(weight), target, exclude=exclude, bonus=bonus).tolist() == above.tolist()


@pytest.mark.parametrize("bonus", [None, bonus_of([{}] * 4)])
def test_without_a_bonus_they_are_the_kernels(bonus: RowScores | None) -> None:
    hidden, weight, target, _, exclude = problem(0, 4, 9, "rows")
    catalog = prepare_catalog(weight)
    for mine, theirs in zip(
        top(hidden, catalog, 3, exclude=exclude, bonus=bonus),
        catalog_topk(hidden, catalog, 3, exclude=exclude),
        strict=True,
    ):
        assert torch.equal(mine, theirs)
    ranks = rank(hidden, catalog, target, exclude=exclude, bonus=bonus)
    assert torch.equal(ranks, catalog_rank(hidden, catalog, target, exclude=exclude))


def test_rows_without_a_bonus_stand_beside_others() -> None:
    hidden, weight, target, _, _ = problem(2, 3, 9, "nothing")
    catalog, bonus = prepare_catalog(weight), bonus_of([{}, {4: 8.0, 2: 0.5}, {}])
    alone = rank(hidden, catalog, target)
    together = rank(hidden, catalog, target, bonus=bonus)
    assert together[[0, 2]].tolist() == alone[[0, 2]].tolist()
    best = top(hidden, catalog, 2, bonus=bonus)[1]
    assert best[[0, 2]].tolist() == top(hidden, catalog, 2)[1][[0, 2]].tolist() and best[1, 0] == 4


def test_the_target_keeps_its_bonus_where_it_is_excluded() -> None:
    hidden, weight = torch.zeros(1, 2), torch.zeros(4, 2)
    bonus, exclude = bonus_of([{1: 0.5, 2: 0.25, 3: 0.125}]), torch.tensor([1, 2])
    ranks = [
        float(rank(hidden, prepare_catalog(weight), torch.tensor([item]), exclude=exclude, bonus=bonus))
        for item in range(4)
    ]
    assert ranks == [1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_row_without_numbers_has_no_rank_and_spoils_no_other(value: float) -> None:
    hidden, weight, target, bonus, _ = problem(3, 4, 9, "nothing")
    catalog = prepare_catalog(weight)
    healthy = rank(hidden, catalog, target, bonus=bonus), top(hidden, catalog, 3, bonus=bonus)[1]
    hidden[2] = value
    weight[:, :2] = torch.tensor([1.0, -1.0])  # inf - inf
    broken = rank(hidden, prepare_catalog(weight), target, bonus=bonus)
    assert broken.isnan().tolist() == [False, False, True, False]
    catalog = prepare_catalog(problem(3, 4, 9, "nothing")[1])
    others = [0, 1, 3]
    assert rank(hidden, catalog, target, bonus=bonus)[others].tolist() == healthy[0][others].tolist()
    assert top(hidden, catalog, 3, bonus=bonus)[1][others].tolist() == healthy[1][others].tolist()


def test_bfloat16_tables_are_scored_no_less_precisely() -> None:
    hidden, weight, target, bonus, _ = problem(1, 6, 13, "nothing")
    catalog = prepare_catalog(weight.bfloat16())
    expected = rank(hidden, prepare_catalog(weight), target, bonus=bonus)
    assert rank(hidden.bfloat16(), catalog, target, bonus=bonus).tolist() == expected.tolist()

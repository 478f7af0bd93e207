"""Allowed and denied items, against brute force over the full score matrix."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rearec import Recommender
from rearec.data import collate_histories
from rearec.errors import UserError
from rearec.inference.filters import ItemFilter

HISTORIES = [[f"item-{(7 * row + 3 * place) % 43:03}" for place in range(1 + row % 9)] for row in range(11)]


@pytest.fixture(scope="module", params=[256, 4], ids=["one batch", "batches of 4"])
def recommender(request: pytest.FixtureRequest, run_folder: Path) -> Recommender:
    return Recommender(run_folder, batch_rows=request.param)


def drawn(count: int, seed: int) -> list[str]:
    return random.Random(seed).sample([f"item-{number:03}" for number in range(40)], count)


def expected(recommender: Recommender, history: list[str], k: int, barred: set[str]) -> list[tuple[str, float]]:
    """Of one history, by sorting every item's score."""
    number_of = {item: number for number, item in enumerate(recommender.catalog.item_ids)}
    known = [number_of[item] for item in history if item in number_of]
    with torch.no_grad():
        model = recommender.model
        states = model(collate_histories([known], model.config.max_len)).states
        scores = (model.final_state(states) @ model.weight.T)[0].tolist()
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item))
    return [(item, scores[n]) for n in order if (item := recommender.catalog.item_ids[n]) not in barred][:k]


def cases() -> Iterator[tuple[object, object]]:
    yield None, drawn(1, 0)
    yield None, drawn(38, 1)
    yield drawn(6, 2), None
    yield drawn(39, 3), None
    yield drawn(12, 4), drawn(12, 5)
    yield drawn(3, 6), drawn(3, 6)  # nothing is left
    rows = range(len(HISTORIES))
    yield None, [drawn(row, row) for row in rows]
    yield [drawn(3 * (row % 4), row) for row in rows], None
    yield [drawn(3 * (row % 4), row) for row in rows], [drawn(row, row + 50) for row in rows]
    yield [drawn(3 * (row % 4), row) for row in rows], drawn(9, 7)
    yield drawn(12, 8), [drawn(row, row) for row in rows]


def of_row(lists: object, row: int, empty: set[str]) -> set[str]:
    if lists is None:
        return empty
    assert isinstance(lists, list)
    return set(lists[row] if isinstance(lists[0], list) else lists)


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize(("allow", "deny"), [pytest.param(*case, id=str(n)) for n, case in enumerate(cases())])
def test_the_best_of_what_is_left(recommender: Recommender, allow: object, deny: object, exclude_seen: bool) -> None:
    answers = recommender.recommend(HISTORIES, k=5, allow=allow, deny=deny, exclude_seen=exclude_seen)
    everything = set(recommender.catalog.item_ids)
    for row, (history, answer) in enumerate(zip(HISTORIES, answers, strict=True)):
        barred = (everything - of_row(allow, row, everything)) | of_row(deny, row, set())
        best = expected(recommender, history, 5, barred | (set(history) if exclude_seen else set()))
        assert answer.items == [item for item, _ in best]
        assert answer.scores == pytest.approx([score for _, score in best], rel=1e-5, abs=1e-6)


def test_the_popular_items_of_an_unknown_history_are_filtered_too(recommender: Recommender) -> None:
    order = recommender.recommend([[]], k=40)[0].items
    denied, allowed = order[:3], order[1::2]
    answers = recommender.recommend([["?"], [], ["item-001"]], k=4, allow=allowed, deny=denied)
    assert [answer.source for answer in answers] == ["popularity", "popularity", "model"]
    assert (
        answers[0].items == answers[1].items == [item for item in order if item in allowed and item not in denied][:4]
    )
    of_each = recommender.recommend([[], []], k=2, deny=[order[:1], order[:2]])
    assert [answer.items for answer in of_each] == [order[1:3], order[2:4]]


def test_integers_and_sets_are_lists_of_ids(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    names = [str(number) for number in range(40)]
    recommender = Recommender(recommender.model, type(recommender.catalog)(names, recommender.catalog.popularity))
    assert recommender.recommend([[3, 4]], deny={5, 6}) == recommender.recommend([["3", "4"]], deny=["5", "6"])
    assert set(recommender.recommend([[3]], allow=range(4))[0].items) == {"0", "1", "2", "3"}


def test_a_long_list_of_denied_items_is_said_by_what_it_leaves() -> None:
    number_of = {str(number): number for number in range(10)}
    short = ItemFilter(None, ["1", "2"], 3, number_of)
    short.denies_at_most(2)
    assert short.allowed(0) is None and short.denied(0).tolist() == [1, 2]
    short.denies_at_most(1)
    left = short.allowed(0)
    assert left is not None and left.tolist() == [0, 3, 4, 5, 6, 7, 8, 9] and short.denied(2).tolist() == []


def test_unknown_ids_of_a_list_are_told(recommender: Recommender) -> None:
    with pytest.warns(UserWarning, match=r"deny: skipped, not in the catalogue: x, y"):
        answer = recommender.recommend([["item-001"]], deny=["x", "item-002", "y"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer == recommender.recommend([["item-001"]], deny=["item-002"])
        assert recommender.recommend([["item-001"]], deny=[]) == recommender.recommend([["item-001"]])
    for name in ("allow", "deny"):
        with pytest.raises(UserError, match=rf"{name}: no item of it is in the catalogue \(a, b, c, d, e and 2 more\)"):
            recommender.recommend([["item-001"]], **{name: list("abcdefg")})
    with pytest.raises(UserError, match="allow: is empty"):
        recommender.recommend([["item-001"]], allow=[])


def test_wrong_lists_are_named(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="allow: got 1 lists, expected one for each of the 2 histories"):
        recommender.recommend([["item-001"]] * 2, allow=[["item-001"]])
    with pytest.raises(TypeError, match="deny: expected a sequence of item ids"):
        recommender.recommend([["item-001"]], deny="item-001")
    with pytest.raises(TypeError, match=r"deny: an id is text or a whole number, got 1\.0"):
        recommender.recommend([["item-001"]], deny=[1.0])

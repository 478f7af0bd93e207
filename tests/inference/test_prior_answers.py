"""Answers of a model with a graph prior against all items' scores, computed one by one."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from prior_answers import ALONE, IDS, MAX_LEN, N, dense_answer, model_with_prior, recommender_with_prior

from rearec import Recommender
from rearec.data import collate_histories
from rearec.inference import Recommendation
from rearec.run_folder import Catalog

# Short and longer than the model reads, items twice, unknown ones, the last of them without neighbours.
HISTORIES = [
    ["i3"],
    ["i5", "i9", "i9", "?", "i20", "i1", "i3", "new", "i7", "i12", "i4", "i33", "i5", "i6"],
    ["i2", "i2", "i2"],
    ["i30", "i31", "i32", "i33", "i34", "i35"],
    ["?", "i11", "i10"],
    ["i0", "i8"],
    ["i7", "i39"],
]
SOME = [f"i{number}" for number in (1, 2, 3, 7, 12, 13, 20, 21, 22, 34, 39)]
EVERY = [IDS[row : row + 25] for row in range(len(HISTORIES))]


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    return recommender_with_prior()


def check(answer: Recommendation, expected: tuple[Sequence[str], Sequence[float]]) -> None:
    assert (answer.items, answer.source, answer.prior) == (expected[0], "model", True)
    assert answer.scores == pytest.approx(expected[1], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("batch_rows", [1, 3, 256])
@pytest.mark.parametrize("method", ["base", "erl", "prl"])
def test_answers_are_the_best_by_all_scores(method: str, batch_rows: int) -> None:
    recommender = recommender_with_prior(method, batch_rows=batch_rows)
    for k in (1, 7, N + 5):
        for history, answer in zip(HISTORIES, recommender.recommend(HISTORIES, k), strict=True):
            check(answer, dense_answer(recommender.model, history, k))


@pytest.mark.parametrize("batch_rows", [1, 3, 256])
@pytest.mark.parametrize(
    "options",
    [
        {"allow": SOME},
        {"allow": EVERY},
        {"allow": [SOME, SOME, ["i4"], *EVERY[3:]]},
        {"deny": SOME},
        {"deny": EVERY},
        {"deny": IDS[3:]},
        {"allow": SOME, "deny": EVERY},
        {"allow": EVERY, "deny": SOME, "exclude_seen": True},
        {"exclude_seen": True},
        {"deny": SOME, "exclude_seen": True},
    ],
    ids=str,
)
def test_answers_among_the_items_that_may_be_recommended(options: dict[str, Any], batch_rows: int) -> None:
    recommender = recommender_with_prior(batch_rows=batch_rows)
    for k in (3, N):
        for row, answer in enumerate(recommender.recommend(HISTORIES, k, **options)):
            allow, deny = options.get("allow", IDS), options.get("deny", [])
            allow = allow if isinstance(allow[0], str) else allow[row]
            deny = deny if not deny or isinstance(deny[0], str) else deny[row]
            barred = [*deny, *(HISTORIES[row] if "exclude_seen" in options else [])]
            check(answer, dense_answer(recommender.model, HISTORIES[row], k, allow=allow, deny=barred))


def test_the_prior_changes_answers_and_says_so(recommender: Recommender) -> None:
    plain = recommender_with_prior()
    plain.model.prior = None
    assert plain.recommend(HISTORIES, 5) == recommender.recommend(HISTORIES, 5)  # frozen until it is told
    plain.refresh()
    without = plain.recommend(HISTORIES, 5)
    assert not any(answer.prior for answer in without)
    with_prior = recommender.recommend(HISTORIES, 5)
    assert sum(one.items != other.items for one, other in zip(with_prior, without, strict=True)) >= 4
    # no item of this history has neighbours
    assert (with_prior[5].items, with_prior[5].scores) == (without[5].items, without[5].scores)
    assert "; by the model with the item graph; 1 unknown item" in repr(with_prior[4])
    assert "; by the model; 1 unknown item" in repr(without[4])
    assert "recommended by the model with the item graph" in with_prior[0]._repr_html_()
    assert with_prior[0] != without[0] and recommender.recommend(HISTORIES, 5) == with_prior


def test_what_stands_before_all_that_the_model_reads_counts() -> None:
    recommender = recommender_with_prior(last=MAX_LEN + 1)
    rest = [f"i{number}" for number in ALONE * 2]
    (one,), (other,), (beyond,) = (
        recommender.recommend([[*first, *rest]], N) for first in (["i3"], ["i5"], ["i9", "i5"])
    )
    assert one.scores != other.scores and beyond == other
    check(one, dense_answer(recommender.model, ["i3", *rest], N))
    (vector, same) = recommender.encode([["i3", *rest], ["i5", *rest]])
    assert (vector == same).all()


def test_one_history_is_answered_as_in_company(recommender: Recommender) -> None:
    together = recommender.recommend(HISTORIES, 9, exclude_seen=True)
    for history, answer in zip(HISTORIES, together, strict=True):
        (alone,) = recommender.recommend([history], 9, exclude_seen=True)
        assert (alone.items, alone.unknown) == (answer.items, answer.unknown)
        assert alone.scores == pytest.approx(answer.scores, rel=1e-5)


def test_fewer_steps_are_answered_without_it_and_one_warning_says_so() -> None:
    recommender = recommender_with_prior(batch_rows=2)
    plain = recommender_with_prior(batch_rows=2)
    plain.model.prior = None
    plain.refresh()
    with pytest.warns(UserWarning) as said:
        answers = recommender.recommend(HISTORIES, 5, steps=1)
    assert [str(one.message) for one in said] == [
        "answered without the graph prior: it was fitted for 2 steps, not 1",
    ]
    assert answers == plain.recommend(HISTORIES, 5, steps=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recommender.recommend(HISTORIES, 5, steps=2) == recommender.recommend(HISTORIES, 5)
        plain.recommend(HISTORIES, 5, steps=1)
        recommender.recommend([["?"]], 5, steps=1)


def test_what_is_popular_has_no_prior(recommender: Recommender) -> None:
    empty, _, unknown = recommender.recommend([[], ["i1"], ["?"]], k=2)
    assert (empty.items, empty.scores, empty.source, empty.prior) == (["i0", "i1"], [N, N - 1], "popularity", False)
    assert (unknown.items, unknown.unknown, unknown.prior) == (["i0", "i1"], ["?"], False)
    assert "with the item graph" not in repr(empty)
    assert recommender.recommend([]) == []


def test_vectors_and_similar_items_are_those_of_the_model_alone(recommender: Recommender) -> None:
    model = model_with_prior()
    model.prior = None
    plain = Recommender(model, recommender.catalog)
    np.testing.assert_array_equal(recommender.encode(HISTORIES), plain.encode(HISTORIES))
    np.testing.assert_array_equal(recommender.item_vectors, plain.item_vectors)
    assert recommender.similar(IDS, 5) == plain.similar(IDS, 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_moved_to_another_dtype(dtype: torch.dtype) -> None:
    recommender = Recommender(model_with_prior().to(dtype), Catalog(IDS, [1] * N))
    check_its_own_vectors(recommender)


def test_a_recommender_whose_model_is_moved_answers_again_once_refreshed() -> None:
    recommender = recommender_with_prior()
    recommender.model.bfloat16()
    with pytest.raises(ValueError, match=r"model: is torch\.bfloat16 .* call refresh\(\)"):
        recommender.recommend(HISTORIES)
    recommender.refresh()
    check_its_own_vectors(recommender)


def check_its_own_vectors(recommender: Recommender) -> None:
    """Its answers have the scores of its vectors and what the graph adds, alone and beside others."""
    prior, vectors = recommender.model.prior, recommender.encode(HISTORIES).astype(np.float64)
    assert prior is not None
    for history, vector in zip(HISTORIES, vectors, strict=True):
        items = [IDS.index(item) for item in history if item in IDS]
        added = prior.bonus(np.array([0, len(items)]), np.array(items))
        scores = recommender.item_vectors.astype(np.float64) @ vector
        scores[added.items] += added.scores
        for answer in (recommender.recommend([history], N)[0], recommender.recommend([history, ["i1"]], N)[0]):
            assert answer.scores == pytest.approx(np.sort(scores)[::-1].tolist(), rel=1e-5, abs=1e-6)


def test_copies_answer_alike(recommender: Recommender) -> None:
    expected = recommender.recommend(HISTORIES, 5)
    for other in (copy.deepcopy(recommender), pickle.loads(pickle.dumps(recommender))):
        assert other.recommend(HISTORIES, 5) == expected
        other.refresh()
        assert other.recommend(HISTORIES, 5) == expected and other.model.prior is not recommender.model.prior


def test_threads_get_the_answers_of_one() -> None:
    recommender = recommender_with_prior(batch_rows=3)
    requests: list[tuple[list[list[str]], dict[str, Any]]] = [
        (HISTORIES[number % 3 : 4 + number % 4], {"k": 1 + number, "exclude_seen": number % 2 == 0, "allow": allow})
        for number in range(8)
        for allow in (None, SOME)
    ]
    expected = [recommender.recommend(histories, **options) for histories, options in requests]
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(recommender.recommend, histories, **options)
            for _ in range(2)
            for histories, options in requests
        ]
        assert [call.result() for call in calls] == expected * 2


def test_a_frame_holds_the_scores_with_the_prior(recommender: Recommender) -> None:
    frame = recommender.recommend(HISTORIES[:1], 4, frame=True)
    items, scores = dense_answer(recommender.model, HISTORIES[0], 4)
    assert frame["item"].to_list() == items and frame["score"].to_list() == pytest.approx(scores, rel=1e-5)
    assert set(frame["source"]) == {"model"}


def test_the_dense_answers_are_not_those_of_the_model_alone() -> None:
    """That the reference above knows the prior at all."""
    model = model_with_prior()
    state = model.final_state(model(collate_histories([[3]], MAX_LEN)).states)[0].detach().double()
    scores = model.weight.detach().double() @ state
    assert dense_answer(model, ["i3"], N)[0] != [IDS[item] for item in scores.argsort(descending=True)]

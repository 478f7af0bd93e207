"""Recommender: raw ids in and out, unknown and empty histories, exclusion, saved runs."""

from __future__ import annotations

import copy
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from rearec import Recommender
from rearec.data import collate_histories
from rearec.engine import engine
from rearec.errors import UserError
from rearec.inference import Recommendation
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog, RunFolder
from rearec_kernels import prepare_catalog


@pytest.fixture(scope="module")
def recommender(run_folder: Path) -> Recommender:
    return Recommender(run_folder)


def expected_order(recommender: Recommender, history: list[str]) -> list[str]:
    ids = recommender.catalog.item_ids
    batch = collate_histories([[ids.index(item) for item in history]], recommender.model.config.max_len)
    with torch.no_grad():
        model = recommender.model
        score = (model.final_state(model(batch).states) @ model.weight.T)[0]
    return [ids[item] for item in score.argsort(descending=True, stable=True)]


def test_answers_are_the_best_items_of_the_full_score_matrix(recommender: Recommender) -> None:
    histories = [["item-001", "item-010"], ["item-033"], ["item-005"] * 20]
    answers = recommender.recommend(histories, k=7)
    for history, answer in zip(histories, answers, strict=True):
        assert answer.items == expected_order(recommender, history)[:7]
        assert answer.scores == sorted(answer.scores, reverse=True)
        assert (answer.unknown, answer.source) == ([], "model")


def test_answers_do_not_depend_on_the_company_of_a_history(run_folder: Path) -> None:
    histories = [["item-001"] * length for length in (9, 1, 4, 2, 7)]
    together = Recommender(run_folder).recommend(histories, k=5)
    apart = Recommender(run_folder, batch_rows=2).recommend(histories, k=5)
    assert [answer.items for answer in together] == [answer.items for answer in apart]


def test_unknown_items_are_skipped_and_reported(recommender: Recommender) -> None:
    answer, clean = recommender.recommend([["?", "item-001", "new", "item-002"], ["item-001", "item-002"]], k=4)
    assert answer.unknown == ["?", "new"]
    assert (answer.items, answer.source) == (clean.items, "model")


@pytest.mark.parametrize("history", [[], ["never seen"]])
def test_a_history_without_known_items_is_answered_by_popularity_and_says_so(
    recommender: Recommender, history: list[str]
) -> None:
    answer = recommender.recommend([history], k=3)[0]
    counts = recommender.catalog.popularity
    best = sorted(range(len(counts)), key=lambda item: (-counts[item], item))[:3]
    assert answer == Recommendation(
        [recommender.catalog.item_ids[item] for item in best],
        [float(counts[item]) for item in best],
        history,
        "popularity",
    )


def test_seen_items_are_excluded_on_demand_only(recommender: Recommender) -> None:
    history = expected_order(recommender, ["item-001"])[:3]
    everything = recommender.recommend([history], k=1000)[0]
    assert sorted(everything.items) == sorted(recommender.catalog.item_ids)
    rest = recommender.recommend([history, ["item-001"]], k=1000, exclude_seen=True)
    assert rest[0].items == [item for item in everything.items if item not in history]
    assert len(rest[0].scores) == len(rest[0].items)
    assert "item-001" not in rest[1].items and len(rest[1].items) == len(recommender.catalog.item_ids) - 1


def test_the_table_is_prepared_once_and_anew_by_refresh(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[torch.Tensor] = []

    def prepare(weight: torch.Tensor) -> object:
        prepared.append(weight)
        return prepare_catalog(weight)

    monkeypatch.setattr(engine, "prepare_catalog", prepare)
    recommender = Recommender(run_folder)
    first, again = (recommender.recommend([["item-001"]], k=3) for _ in range(2))
    assert first == again and len(prepared) == 1
    table = recommender.model.backbone.item_embedding.weight
    for write in (lambda: table.data.mul_(-1), lambda: recommender.model.bfloat16()):
        write()
        recommender.refresh()
        fresh = Recommender(copy.deepcopy(recommender.model), recommender.catalog)
        assert recommender.recommend([["item-001"]], k=3) == fresh.recommend([["item-001"]], k=3) != first
    assert len(prepared) == 5 and prepared[-1].dtype == torch.bfloat16


def test_a_model_in_memory_needs_its_catalogue(run_folder: Path) -> None:
    model = ReaRec.from_pretrained(run_folder)
    with pytest.raises(ValueError, match="catalog: missing"):
        Recommender(model)
    with pytest.raises(ValueError, match=r"catalog: has 1 items, expected 40"):
        Recommender(model, Catalog(["a"], [1]))
    catalog = RunFolder(run_folder).catalog()
    expected = Recommender(run_folder).recommend([["item-001"]])
    assert Recommender(model.train(), catalog).recommend([["item-001"]]) == expected
    assert model.training


def requests() -> list[tuple[list[list[str]], dict[str, Any]]]:
    """Of mixed sizes: one history and many, short and long, known and unknown, with and without what was seen."""
    found = []
    for number in range(24):
        histories = [
            [f"item-{(7 * number + 3 * row + i) % 43:03}" for i in range(1 + (number + row) % 9)]
            for row in range(1 + 5 * (number % 4))
        ]
        found.append((histories, {"k": 1 + number % 11, "exclude_seen": number % 3 == 0, "steps": number % 2 or None}))
    return found


def answers_of_threads(recommender: Recommender, times: int = 6) -> list[list[Recommendation]]:
    """To `requests`, `times` times over, by eight threads."""
    with ThreadPoolExecutor(8) as pool:
        calls = [
            pool.submit(recommender.recommend, histories, **options)
            for _ in range(times)
            for histories, options in requests()
        ]
        return [call.result() for call in calls]


@pytest.mark.parametrize("training", [False, True])
def test_threads_get_the_answers_of_one(run_folder: Path, training: bool) -> None:
    recommender = Recommender(run_folder)
    expected = [recommender.recommend(histories, **options) for histories, options in requests()]
    # each time anew, so that what is prepared for the first call is prepared by several threads at once
    for _ in range(4):
        recommender = Recommender(run_folder)
        recommender.model.train(training)
        assert answers_of_threads(recommender) == expected * 6
        assert recommender.model.training is training


def test_threads_answer_with_the_weights_of_the_last_refresh(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    for factor in (-1.0, 0.5, -2.0):
        answers_of_threads(recommender, times=1)
        with torch.no_grad():
            for parameter in recommender.model.parameters():
                parameter.mul_(factor)
        recommender.refresh()
        fresh = Recommender(copy.deepcopy(recommender.model), recommender.catalog)
        expected = [fresh.recommend(histories, **options) for histories, options in requests()]
        assert answers_of_threads(recommender, times=2) == expected * 2


def test_a_copy_answers_alike(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    expected = recommender.recommend([["item-001", "item-010"]])
    for twin in (copy.deepcopy(recommender), pickle.loads(pickle.dumps(recommender))):
        assert twin.recommend([["item-001", "item-010"]]) == expected


def test_wrong_arguments_are_named(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match="k: got 0"):
        recommender.recommend([["item-001"]], k=0)
    with pytest.raises(TypeError, match=r"histories\[1\]: expected a sequence of item ids"):
        recommender.recommend([["item-001"], "item-001"])
    with pytest.raises(ValueError, match="steps: got 9"):
        recommender.recommend([["item-001"]], steps=9)


def test_a_folder_that_is_no_finished_run_is_an_error(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        Recommender(tmp_path / "nowhere")
    with pytest.raises(UserError, match="not a RUN folder"):
        Recommender(tmp_path)
    damaged = shutil.copytree(run_folder, tmp_path / "damaged")
    for text in ("[]", '{"item_ids": ["a"], "popularity": [1]}'):
        (damaged / "catalog.json").write_text(text)
        with pytest.raises(UserError, match=r"catalog\.json: damaged"):
            Recommender(damaged)

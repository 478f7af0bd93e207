"""Vectors of histories and items, similar items."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rearec import Recommender
from rearec.errors import UserError
from rearec.inference import SimilarItems
from rearec.models.config import ReaRecConfig
from rearec.reasoning import ReaRec
from rearec.run_folder import Catalog

HISTORIES = [[f"item-{(5 * row + 3 * place) % 40:03}" for place in range(1 + row % 9)] for row in range(12)]


@pytest.fixture(scope="module")
def recommender(run_folder: Path) -> Recommender:
    return Recommender(run_folder, batch_rows=5)


@pytest.mark.parametrize("method", ["base", "erl", "prl"])
@pytest.mark.parametrize("backbone", ["sasrec", "bert4rec"])
def test_a_search_over_the_vectors_finds_what_is_recommended(method: str, backbone: str) -> None:
    model = ReaRec(ReaRecConfig(30, method=method, backbone=backbone, dim=16, ffn=16, max_len=6)).eval()
    recommender = Recommender(model, Catalog([f"item-{n:03}" for n in range(30)], [1] * 30))
    vectors = recommender.encode(HISTORIES)
    assert vectors.dtype == recommender.item_vectors.dtype == np.float32
    scores = vectors @ recommender.item_vectors.T
    for row, answer in zip(scores, recommender.recommend(HISTORIES, k=7), strict=True):
        best = np.argsort(-row, kind="stable")[:7]
        assert answer.items == [recommender.catalog.item_ids[item] for item in best]
        assert answer.scores == pytest.approx(row[best].tolist(), rel=1e-5, abs=1e-6)


def test_vectors_depend_on_the_steps_and_not_on_the_company(recommender: Recommender) -> None:
    vectors = recommender.encode(HISTORIES)
    alone = np.concatenate([recommender.encode([history]) for history in HISTORIES])
    np.testing.assert_allclose(vectors, alone, rtol=1e-5, atol=1e-6)
    assert not np.allclose(vectors, recommender.encode(HISTORIES, steps=0))
    np.testing.assert_array_equal(recommender.encode([["?", *HISTORIES[3]]]), recommender.encode([HISTORIES[3]]))
    assert recommender.encode([]).shape == (0, 16)


def test_a_history_without_a_known_item_has_no_vector(recommender: Recommender) -> None:
    with pytest.raises(ValueError, match=r"histories\[1\]: holds no known item"):
        recommender.encode([["item-001"], ["?"]])


def test_item_vectors_are_a_copy(recommender: Recommender) -> None:
    before = recommender.recommend([["item-001"]])
    vectors = recommender.item_vectors
    assert vectors.shape == (40, 16)
    vectors[:] = 0
    assert recommender.recommend([["item-001"]]) == before and recommender.item_vectors.any()


def test_similar_items_have_the_largest_cosine(recommender: Recommender) -> None:
    table = torch.from_numpy(recommender.item_vectors).double()
    table = table / table.norm(dim=1, keepdim=True)
    asked = ["item-003", "item-017", *recommender.catalog.item_ids[:7]]
    for item, found in zip(asked, recommender.similar(asked, k=4), strict=True):
        number = recommender.catalog.item_ids.index(item)
        cosine = table @ table[number]
        cosine[number] = -2
        best = cosine.topk(4)
        assert found.items == [recommender.catalog.item_ids[place] for place in best.indices.tolist()]
        assert found.scores == pytest.approx(best.values.tolist(), abs=1e-5)
        assert (found.item, found.title, found.titles) == (item, None, None)
    everything = recommender.similar(["item-003"], k=1000)[0]
    assert sorted([*everything.items, "item-003"]) == sorted(recommender.catalog.item_ids)


def test_similar_items_are_those_of_the_last_refresh(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    first = recommender.similar(["item-003"])
    with torch.no_grad():
        recommender.model.backbone.item_embedding.weight.copy_(torch.randn(40, 16))
    recommender.refresh()
    assert recommender.similar(["item-003"]) == Recommender(recommender.model, recommender.catalog).similar(
        ["item-003"]
    )
    assert recommender.similar(["item-003"]) != first


def test_similar_items_have_titles(recommender: Recommender) -> None:
    titles = [None if number % 2 else f"Title {number}" for number in range(40)]
    titled = Recommender(recommender.model, replace(recommender.catalog, titles=titles))
    (plain,), (found,) = recommender.similar(["item-004"], k=3), titled.similar(["item-004"], k=3)
    of = dict(zip(titled.catalog.item_ids, titles, strict=True))
    assert found == SimilarItems(
        "item-004", of["item-004"], plain.items, plain.scores, [of[item] for item in plain.items]
    )


def test_wrong_items_are_named(recommender: Recommender) -> None:
    with pytest.raises(UserError, match=r"items: '\?' is not in the catalogue"):
        recommender.similar(["item-001", "?"])
    with pytest.raises(TypeError, match="items: expected a sequence of item ids"):
        recommender.similar("item-001")
    with pytest.raises(ValueError, match="k: got 0"):
        recommender.similar(["item-001"], k=0)

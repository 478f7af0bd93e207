"""Answers with titles, as a table, and as they are shown."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from rearec import Recommender
from rearec.inference import Recommendation, SimilarItems
from rearec.inference.answers import as_frame


@pytest.fixture(scope="module")
def titled(run_folder: Path) -> Recommender:
    recommender = Recommender(run_folder)
    titles = [None if number % 3 == 0 else f"Title {number}" for number in range(40)]
    return Recommender(recommender.model, replace(recommender.catalog, titles=titles))


def test_answers_have_titles_where_the_catalogue_has(titled: Recommender, run_folder: Path) -> None:
    histories = [["item-001"], ["?"]]
    of = dict(zip(titled.catalog.item_ids, titled.catalog.titles or [], strict=True))
    plain = Recommender(run_folder).recommend(histories, k=5)
    for answer, without in zip(titled.recommend(histories, k=5), plain, strict=True):
        assert answer.titles == [of[item] for item in answer.items]
        assert replace(answer, titles=None) == without


def test_a_frame_has_a_row_for_each_item(titled: Recommender) -> None:
    histories = [["item-001"], ["?"], ["item-002"]]
    options = {"k": 6, "allow": ["item-003", "item-004", "item-005"], "deny": [[], [], ["item-003"]]}
    answers = titled.recommend(histories, **options)
    frame = titled.recommend(histories, **options, frame=True)
    assert frame.schema == {
        "row": pl.Int64,
        "rank": pl.Int64,
        "item": pl.String,
        "title": pl.String,
        "score": pl.Float64,
        "source": pl.String,
    }
    assert frame["row"].to_list() == [0, 0, 0, 1, 1, 1, 2, 2] and frame["rank"].to_list() == [1, 2, 3, 1, 2, 3, 1, 2]
    assert frame["item"].to_list() == [item for answer in answers for item in answer.items]
    assert frame["title"].to_list() == [title for answer in answers for title in answer.titles or []]
    assert frame["score"].to_list() == [score for answer in answers for score in answer.scores]
    assert frame["source"].to_list() == ["model"] * 3 + ["popularity"] * 3 + ["model"] * 2


def test_a_frame_of_nothing_and_of_users(titled: Recommender) -> None:
    assert titled.recommend([], frame=True).shape == (0, 6)
    answers = [Recommendation(["a", "b"], [2.0, 1.0], [], "model"), Recommendation([], [], [], "model")]
    frame = as_frame(answers, users=["ann", "bob"])
    assert frame.columns[:2] == ["row", "user"] and frame["user"].to_list() == ["ann", "ann"]
    assert frame["title"].to_list() == [None, None]


def test_answers_are_shown_in_a_line_and_in_a_table() -> None:
    answer = Recommendation([f"<i{n}>" for n in range(7)], [0.5] * 7, ["x", "y"], "model", ["Tea"] + [None] * 6)
    assert repr(answer) == (
        "Recommendation(<i0> 'Tea' 0.5000, <i1> 0.5000, <i2> 0.5000, <i3> 0.5000, <i4> 0.5000, and 2 more; "
        "by the model; 2 unknown items skipped)"
    )
    html = answer._repr_html_()
    assert html.count("<tr>") == 8 and "&lt;i6&gt;" in html and "<i6>" not in html and "Tea" in html
    assert "no item" in repr(Recommendation([], [], [], "popularity"))
    similar = SimilarItems("a", None, ["b"], [1.0])
    assert repr(similar) == "SimilarItems(a: b 1.0000)" and "similar to a" in similar._repr_html_()


def test_a_recommender_is_shown_in_a_line(titled: Recommender) -> None:
    assert repr(titled) == "Recommender(prl on sasrec, 2 steps, dim 16, 40 items; on cpu)"

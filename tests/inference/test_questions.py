"""Several questions at once are answered as each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rearec import Recommender
from rearec.errors import UserError
from rearec.inference import Item, SimilarItems

ASKED: list[dict[str, Any]] = [
    {"histories": [["item-001", "item-010"], [], ["nobody", "item-007"]], "k": 5},
    {"histories": [["item-001"]], "k": 40, "exclude_seen": True},
    {"histories": [["item-003"], ["item-004"]], "k": 2, "allow": ["item-001", "item-002", "item-003"]},
    {"histories": [["item-003"], []], "k": 3, "deny": [["item-001"], ["item-002"]]},
    {"histories": [], "k": 1},
    {"histories": [[f"item-{n:03}" for n in range(30)]], "k": 1, "steps": 0},
    {"histories": [["item-005"] * 8], "k": 7, "steps": 2, "exclude_seen": True, "deny": ["item-009"]},
]


@pytest.mark.parametrize("batch_rows", [2, 256])
def test_questions_are_answered_as_calls_alone(batch_rows: int, run_folder: Path) -> None:
    recommender = Recommender(run_folder, batch_rows=batch_rows)
    together = recommender.answers([recommender.question(**asked) for asked in ASKED])
    for asked, answers in zip(ASKED, together, strict=True):
        for got, wanted in zip(answers, recommender.recommend(**asked), strict=True):
            assert (got.items, got.unknown, got.source) == (wanted.items, wanted.unknown, wanted.source)
            assert got.scores == pytest.approx(wanted.scores, rel=1e-4, abs=1e-5)


def test_questions_of_one_depth_share_passes(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rearec.inference import questions

    recommender = Recommender(run_folder)
    passes: list[int] = []
    states = questions.final_states

    def counted(engine: Any, histories: Any, steps: int | None) -> Any:
        passes.append(len(histories))
        return states(engine, histories, steps)

    monkeypatch.setattr(questions, "final_states", counted)
    recommender.answers([recommender.question(**asked) for asked in ASKED])
    assert sorted(passes) == [1, 7]  # of no step, and of the two that are trained


def test_wrong_questions_are_refused_when_they_are_asked(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    for wrong, error in (({"k": 0}, ValueError), ({"steps": 3}, ValueError), ({"allow": ["x"]}, UserError)):
        with pytest.raises(error):
            recommender.question([["item-001"]], **wrong)  # type: ignore[arg-type]
    question = recommender.question([["item-001"]], deny=["item-002", "x"])
    assert question.skipped == {"deny": ["x"]}


def test_items(run_folder: Path) -> None:
    recommender = Recommender(run_folder)
    number = recommender.catalog.item_ids.index("item-003")
    assert recommender.item("item-003") == Item("item-003", None, recommender.catalog.popularity[number])
    with pytest.raises(UserError, match="item: 'nobody' is not in the catalogue"):
        recommender.item("nobody")


def test_the_first_of_similar_items() -> None:
    found = SimilarItems("a", None, ["b", "c"], [0.5, 0.25], ["B", None])
    assert found.first(1) == SimilarItems("a", None, ["b"], [0.5], ["B"])
    assert found.first(3) == found
